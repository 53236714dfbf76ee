#!lua
-- KEYS: shard, count by key, members by the time they run out.
-- ARGV: epoch, run id, now, key, key and member, how many at most, until.
-- A member's place is a count by its key as well, so that what has run out is found without looking at
-- every key: whoever asks takes away up to 100 of them, and all if the key looks full.
local shard, no = stands(KEYS[1])
if no then return no end
local high = later(shard.wide, ARGV[3])
if high ~= shard.wide then redis.call('HSET', KEYS[1], 'wide', high) end
local function count() return tonumber(redis.call('HGET', KEYS[2], ARGV[4]) or '0') end
local held
repeat
  local old = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', high, 'LIMIT', 0, 100)
  for _, name in ipairs(old) do
    local size = tonumber(string.sub(name, 1, 8), 16)
    local key = string.sub(name, 9, 8 + size)
    redis.call('ZREM', KEYS[3], name)
    if redis.call('HINCRBY', KEYS[2], key, -1) <= 0 then redis.call('HDEL', KEYS[2], key) end
  end
  held = redis.call('ZSCORE', KEYS[3], ARGV[5])
until held or #old < 100 or count() < tonumber(ARGV[6])
if held then
  redis.call('ZADD', KEYS[3], later(held, ARGV[7]), ARGV[5])
  return {'OK', 1}
end
if count() >= tonumber(ARGV[6]) then return {'OK', 0} end
redis.call('ZADD', KEYS[3], ARGV[7], ARGV[5])
redis.call('HINCRBY', KEYS[2], ARGV[4], 1)
return {'OK', 1}
