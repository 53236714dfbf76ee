-- Put in front of every other script. ARGV: epoch, run id of the server as INFO said on this connection.
-- The replication id is asked for here, at the moment of the script: on a connection that lives through
-- A -> B -> A the one that was read before would still look right.
local LAYOUT = '1'
local WIDE_MARGIN = 60  -- seconds that what has run out is kept beyond its time

local function server()
  local info = redis.call('INFO', 'replication')
  return string.match(info, 'role:(%a+)'), string.match(info, 'master_replid:(%x+)')
end

-- The shard's own numbers, or nil and the reply that says why not.
local function stands(shard)
  local m = redis.call('HMGET', shard, 'epoch', 'run', 'replid', 'layout', 'rules', 'high', 'seq', 'evictions', 'wide')
  if m[1] ~= ARGV[1] or m[2] ~= ARGV[2] then return nil, {'EPOCH'} end
  if m[4] ~= LAYOUT then return nil, {'LAYOUT', m[4]} end
  local role, replid = server()
  if role ~= 'master' or replid ~= m[3] then return nil, {'EPOCH'} end
  return {rules = tonumber(m[5]), high = m[6], seq = tonumber(m[7]), evictions = m[8], wide = m[9]}
end

-- The later of two times, as it was written: a number that went through Lua might not be the same.
local function later(one, other)
  if tonumber(other) > tonumber(one) then return other end
  return one
end

-- Write fields and values, ARGV[from] to ARGV[to].
local function put(key, from, to)
  for at = from, to, 1000 do
    redis.call('HSET', key, unpack(ARGV, at, math.min(at + 999, to)))
  end
end
