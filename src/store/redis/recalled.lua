#!lua flags=no-writes
-- Some of the recalled digests: a step of a scan over all of them, or those that came since a reading of all began.
--
-- KEYS: meta, recalled, recall_log. ARGV: about how many, the cursor of a scan; or an empty one, and where the reading stood
-- that those are to follow: by how much recalls outnumbered the entries of the list, and how many of these were read.
--
-- Returns how many there are, how many there ever were, how long the list is, the next cursor, the digests, and how many of the
-- members that were passed are none. Those are not carried: whoever can add members can add long ones.

local META, RECALLED, LIST = unpack(KEYS)
local count, cursor = tonumber(ARGV[1]), ARGV[2]

local present, length = redis.call('SCARD', RECALLED), redis.call('LLEN', LIST)
local ever = present + tonumber(redis.call('HMGET', META, 'settled')[1] or 0)

local next_cursor, members = '0', {}
if cursor ~= '' then
  next_cursor, members = unpack(redis.call('SSCAN', RECALLED, cursor, 'COUNT', count))
elseif ever - length == tonumber(ARGV[3]) then
  -- Each one that came since is in the list.
  local from = tonumber(ARGV[4])
  members = redis.call('LRANGE', LIST, from, from + count - 1)
end
local digests, damaged = {}, 0
for _, member in ipairs(members) do
  if #member == 32 then
    digests[#digests + 1] = member
  else
    damaged = damaged + 1
  end
end
return { present, ever, length, next_cursor, digests, damaged }
