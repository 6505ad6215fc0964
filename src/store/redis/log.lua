#!lua flags=no-writes
-- A page of the change log: the entries after a revision, as many as fit into so many bytes, but so many at least.
--
-- KEYS: meta, log, grants. ARGV: the revision, the bytes, how many at least, the fields of meta that make a position.

local META, LOG, GRANTS = unpack(KEYS)
local start, room, least = '(' .. ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])

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
    is_full = room < 0 and #page >= least
    if is_full then break end
    page[#page + 1], start = entry, '(' .. entry[1]
  end
  local is_end = #entries < count and not is_full
  count = math.min(count * 2, 16)
until is_full or is_end

-- What the rest would cost, as against a snapshot: how many changes there are after these, if they are spread evenly over the
-- log, in how many entries, and how many grants there are.
local rest = {}
if is_full then
  local function number(entry) return tonumber(string.match(entry[1], '^%d+')) end
  local meta = redis.call('HMGET', META, 'revision', 'log_changes')
  local newest, changes = tonumber(meta[1]), tonumber(meta[2])
  local oldest = number(redis.call('XRANGE', LOG, '-', '+', 'COUNT', 1)[1])
  local left = math.max(newest - (page[1] and number(page[#page]) or tonumber(ARGV[1])), 0)
  rest = { math.floor(changes * left / math.max(newest - oldest + 1, 1)), left, redis.call('HLEN', GRANTS) }
end
return { redis.call('HMGET', META, unpack(ARGV, 4)), page, rest }
