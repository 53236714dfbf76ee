#!lua
-- KEYS: shard, transaction. ARGV: epoch, run id, evictions, version, seq, seal, then field and value of each row.
local shard, no = stands(KEYS[1])
if no then return no end
if shard.evictions ~= ARGV[3] then return {'STALE', 'held'} end
if redis.call('EXISTS', KEYS[2]) == 1 then return {'OK'} end
redis.call('HSET', KEYS[2], 'v', ARGV[4], 's', ARGV[5], 'm', ARGV[6])
put(KEYS[2], 7, #ARGV)
return {'OK'}
