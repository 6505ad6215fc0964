#!lua flags=no-writes
-- Some of the recalled digests: a step of a scan over all of them, or those that were listed since a reading of all began.
--
-- KEYS: meta, recalled, recall_log. ARGV: about how many; the cursor of a scan, or an empty one and how many entries of the list
-- were read.
--
-- Returns how many there are, how many there ever were, how long the list is, the next cursor, how many members or entries were
-- read, and which of them are digests that are recalled. The others are not carried: whoever can add can add long ones.

local META, RECALLED, LIST = unpack(KEYS)
local count, cursor = tonumber(ARGV[1]), ARGV[2]

local present, length = redis.call('SCARD', RECALLED), redis.call('LLEN', LIST)
local ever = present + tonumber(redis.call('HMGET', META, 'settled')[1] or 0)

local next_cursor, found, is_member = '0', {}, nil
if cursor ~= '' then
  next_cursor, found = unpack(redis.call('SSCAN', RECALLED, cursor, 'COUNT', count))
else
  local from = tonumber(ARGV[3])
  found = redis.call('LRANGE', LIST, from, from + count - 1)
  is_member = #found > 0 and redis.call('SMISMEMBER', RECALLED, unpack(found))
end
local digests = {}
for index, digest in ipairs(found) do
  if #digest == 32 and (not is_member or is_member[index] == 1) then
    digests[#digests + 1] = digest
  end
end
return { present, ever, length, next_cursor, #found, digests }
