#!lua flags=allow-oom
-- KEYS: shard, then keys of epochs that are over. ARGV: epoch, run id, how the standing epoch's keys begin.
local shard, no = stands(KEYS[1])
if no then return no end
local swept = 0
for k = 2, #KEYS do
  if string.sub(KEYS[k], 1, #ARGV[3]) ~= ARGV[3] then swept = swept + redis.call('UNLINK', KEYS[k]) end
end
return {'OK', swept}
