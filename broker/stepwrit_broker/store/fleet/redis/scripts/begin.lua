#!lua flags=allow-oom
-- KEYS: shard, past. ARGV: epoch, run id, the epoch's place among all.
-- The place tells a broker that was paused before its epoch ever began here; the list of those that are over
-- tells the rest, also where the places are a restored database's.
local role, replid = server()
local m = redis.call('HMGET', KEYS[1], 'epoch', 'run', 'replid', 'layout', 'nth')
if role ~= 'master' then return {'EPOCH'} end
if m[1] == ARGV[1] then
  if m[2] ~= ARGV[2] or m[3] ~= replid then return {'EPOCH'} end
  if m[4] ~= LAYOUT then return {'LAYOUT', m[4]} end
  return {'OK', 0}
end
if tonumber(ARGV[3]) < tonumber(m[5] or '0') then return {'EPOCH'} end
if redis.call('LPOS', KEYS[2], ARGV[1]) then return {'EPOCH'} end
if m[1] then
  redis.call('LPUSH', KEYS[2], m[1])
  redis.call('LTRIM', KEYS[2], 0, 255)
end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'run', ARGV[2], 'replid', replid, 'layout', LAYOUT,
  'rules', '0', 'high', '0', 'seq', '0', 'evictions', '0', 'wide', '0', 'nth', ARGV[3])
return {'OK', 1}
