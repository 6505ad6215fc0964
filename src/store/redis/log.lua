#!lua flags=no-writes
-- A page of the change log: the entries after a revision, as many as fit into so many bytes, but one at least.
--
-- KEYS: meta, log, grants. ARGV: the revision, the bytes, the fields of meta that make a position.

local META, LOG, GRANTS = unpack(KEYS)
local start, room = '(' .. ARGV[1], tonumber(ARGV[2])

-- About what an entry takes besides its fields' values.
local OVERHEAD = 64

local page, is_full, count = {}, false, 2
repeat
  local entries = redis.call('XRANGE', LOG, start, '+', 'COUNT', count)
  for _, entry in ipairs(entries) do
    for _, part in ipairs(entry[2]) do
      room = room - #part
    end
    room = room - OVERHEAD
    is_full = room < 0 and #page > 0
    if is_full then break end
    page[#page + 1], start = entry, '(' .. entry[1]
  end
  local is_end = #entries < count and not is_full
  count = math.min(count * 2, 16)
until is_full or is_end

-- What the rest would cost, as against a snapshot: where the log begins, how many changes it has, how many grants there are.
local rest = {}
if is_full then
  local oldest = redis.call('XRANGE', LOG, '-', '+', 'COUNT', 1)
  rest = { string.match(oldest[1][1], '^%d+'), redis.call('HMGET', META, 'log_changes')[1], redis.call('HLEN', GRANTS) }
end
return { redis.call('HMGET', META, unpack(ARGV, 3)), page, rest }
