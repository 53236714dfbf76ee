#!lua
-- KEYS: shard, stream, one for each transaction.
-- ARGV: epoch, run id, now, rules, slack in seconds, work; then for each transaction: the version that the
-- plan was made on, its seal, how many words of fields and values follow, those, how many names to drop, those.
local shard, no = stands(KEYS[1])
if no then return no end
if tonumber(ARGV[4]) < shard.rules then return {'STALE', 'rules'} end
local at = 7
for k = 3, #KEYS do
  local v = redis.call('HGET', KEYS[k], 'v')
  if (v or '0') ~= ARGV[at] then return {'STALE', 'version'} end
  at = at + 3 + tonumber(ARGV[at + 2])
  at = at + 1 + tonumber(ARGV[at])
end
if tonumber(ARGV[3]) < tonumber(shard.high) - tonumber(ARGV[5]) then return {'STALE', 'time', shard.high} end
-- The stream first: whatever it refuses has changed nothing.
local seq = string.format('%.0f', shard.seq + 1)
redis.call('XADD', KEYS[2], seq .. '-0', 'w', ARGV[6])
redis.call('HSET', KEYS[1], 'seq', seq, 'high', later(shard.high, ARGV[3]))
at = 7
for k = 3, #KEYS do
  local version, words = tonumber(ARGV[at]), tonumber(ARGV[at + 2])
  local puts = at + 3
  local drops = puts + words + 1
  local dropped = tonumber(ARGV[drops - 1])
  for d = drops, drops + dropped - 1, 1000 do
    redis.call('HDEL', KEYS[k], unpack(ARGV, d, math.min(d + 999, drops + dropped - 1)))
  end
  redis.call('HSET', KEYS[k], 'v', string.format('%.0f', version + 1), 's', seq, 'm', ARGV[at + 1])
  put(KEYS[k], puts, puts + words - 1)
  at = drops + dropped
end
return {'OK', seq}
