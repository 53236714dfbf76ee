#!lua flags=no-writes
-- KEYS: shard, stream. ARGV: epoch, run id.
local shard, no = stands(KEYS[1])
if no then return no end
return {'OK', redis.call('XLEN', KEYS[2])}
