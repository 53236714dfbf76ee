#!lua flags=allow-oom
-- KEYS: shard, transaction. ARGV: epoch, run id, version.
local shard, no = stands(KEYS[1])
if no then return no end
if redis.call('HGET', KEYS[2], 'v') ~= ARGV[3] then return {'OK', 0} end
redis.call('HINCRBY', KEYS[1], 'evictions', 1)
redis.call('UNLINK', KEYS[2])
return {'OK', 1}
