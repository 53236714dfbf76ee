#!lua flags=no-writes
-- KEYS: shard, transaction. ARGV: epoch, run id, version that the caller knows.
local shard, no = stands(KEYS[1])
if no then return no end
local t = redis.call('HMGET', KEYS[2], 'v', 's')
if not t[1] then return {'ABSENT', shard.evictions} end
if t[1] == ARGV[3] then return {'SAME', t[2]} end
return {'ROWS', t[1], t[2], redis.call('HGETALL', KEYS[2])}
