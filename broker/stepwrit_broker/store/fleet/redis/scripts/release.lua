#!lua flags=allow-oom
-- As once: KEYS: shard, values by key, keys by time. ARGV: epoch, run id, 'once', key, value.
-- As place: KEYS: shard, count by key, members by time. ARGV: epoch, run id, 'place', key, key and member.
local shard, no = stands(KEYS[1])
if no then return no end
if ARGV[3] == 'once' then
  if redis.call('HGET', KEYS[2], ARGV[4]) ~= ARGV[5] then return {'OK', 0} end
  redis.call('HDEL', KEYS[2], ARGV[4])
  redis.call('ZREM', KEYS[3], ARGV[4])
  return {'OK', 1}
end
if redis.call('ZREM', KEYS[3], ARGV[5]) == 0 then return {'OK', 0} end
if redis.call('HINCRBY', KEYS[2], ARGV[4], -1) <= 0 then redis.call('HDEL', KEYS[2], ARGV[4]) end
return {'OK', 1}
