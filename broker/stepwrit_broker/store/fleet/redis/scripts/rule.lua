#!lua flags=allow-oom
-- KEYS: shard. ARGV: epoch, run id, number. The number of the last work that was taken before.
local shard, no = stands(KEYS[1])
if no then return no end
if tonumber(ARGV[3]) > shard.rules then redis.call('HSET', KEYS[1], 'rules', ARGV[3]) end
return {'OK', string.format('%.0f', shard.seq)}
