#!lua
-- KEYS: shard, values by key, keys by the time they run out. ARGV: epoch, run id, now, key, value, until.
local shard, no = stands(KEYS[1])
if no then return no end
local high = later(shard.wide, ARGV[3])
local ends = redis.call('ZSCORE', KEYS[3], ARGV[4])
local held = ends and tonumber(ends) > tonumber(high) and redis.call('HGET', KEYS[2], ARGV[4])
if held and held ~= ARGV[5] then return {'OK', held} end
if high ~= shard.wide then redis.call('HSET', KEYS[1], 'wide', high) end
redis.call('ZADD', KEYS[3], held and later(ends, ARGV[6]) or ARGV[6], ARGV[4])
redis.call('HSET', KEYS[2], ARGV[4], ARGV[5])
for _, old in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', tonumber(high) - WIDE_MARGIN, 'LIMIT', 0, 8)) do
  redis.call('ZREM', KEYS[3], old)
  redis.call('HDEL', KEYS[2], old)
end
return {'OK', ARGV[5]}
