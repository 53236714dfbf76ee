#!lua flags=no-writes
-- KEYS: shard. ARGV: epoch, run id.
local shard, no = stands(KEYS[1])
return no or {'OK'}
