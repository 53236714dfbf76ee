#!lua
-- KEYS: shard, arrival times by bucket. ARGV: epoch, run id, now, bucket, interval, burst, wanted, life, since.
-- core/slices.py is the rule; this follows it in IEEE doubles and in its order of operations.
local shard, no = stands(KEYS[1])
if no then return no end
local now, interval, burst, wanted = tonumber(ARGV[3]), tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local life, since = tonumber(ARGV[8]), tonumber(ARGV[9])
local width = interval * burst
local tat = redis.call('ZSCORE', KEYS[2], ARGV[4])
local stood = tat and tonumber(tat) or since + width
local start = math.min(math.max(stood, now + life), now + interval * (burst + 1))
local room = math.floor((now + width - start) / interval + 1e-3)
local cells = math.max(0, math.min(wanted, room))
local after, counted = stood, start
if cells > 0 then
  after = start + cells * interval
  counted = after
  redis.call('ZADD', KEYS[2], string.format('%.17g', after), ARGV[4])
  -- Forgotten only where both clocks say so: a caller's that ran ahead would empty every bucket.
  local past = math.min(now, tonumber(redis.call('TIME')[1])) - WIDE_MARGIN
  local olds = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', past, 'LIMIT', 0, 8)
  if #olds > 0 then redis.call('ZREM', KEYS[2], unpack(olds)) end
end
local early = counted + interval - width - now
if early <= interval * 1e-3 then early = 0 end
return {'OK', cells, string.format('%.17g', after), string.format('%.17g', early)}
