#!lua flags=allow-oom
-- KEYS: shard, arrival times by bucket. ARGV: epoch, run id, bucket, known, cells, interval.
local shard, no = stands(KEYS[1])
if no then return no end
local tat = redis.call('ZSCORE', KEYS[2], ARGV[3])
if not tat or tonumber(tat) ~= tonumber(ARGV[4]) then return {'OK', 0} end
local before = tonumber(tat) - tonumber(ARGV[5]) * tonumber(ARGV[6])
redis.call('ZADD', KEYS[2], string.format('%.17g', before), ARGV[3])
return {'OK', 1}
