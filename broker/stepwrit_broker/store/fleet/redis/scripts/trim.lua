#!lua flags=allow-oom
-- KEYS: shard, stream. ARGV: epoch, run id, first number to keep.
local shard, no = stands(KEYS[1])
if no then return no end
redis.call('XTRIM', KEYS[2], 'MINID', '=', ARGV[3] .. '-0')
return {'OK'}
