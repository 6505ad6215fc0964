#!lua flags=allow-oom
-- Settles what became of a commit that is in doubt: it is found in the log, or it can never happen any more. Where the log
-- does not go back to where the commit would be, that is all that can be said of it.
--
-- KEYS: meta, log, cancelled. ARGV: the commit's id; epoch, revision and head from before it was sent.

local META, LOG, CANCELLED = unpack(KEYS)
local id, epoch, revision, head = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]

-- How long a commit that was cancelled is remembered, in seconds: far longer than anything stays in a socket's buffer.
local REMEMBERED = 86400

-- A failover can lose commits, and the one looked for may have come after it, at a revision before.
local LOST_AT_MOST = 1000

local function fields_of(entry)
  local fields = {}
  for position = 1, #entry[2], 2 do
    fields[entry[2][position]] = entry[2][position + 1]
  end
  return fields
end

local function number(entry)
  return tonumber(string.match(entry[1], '^%d+'))
end

local meta = redis.call('HMGET', META, 'epoch', 'revision', 'head')
if not meta[1] then
  return { 'absent' }
end
local newest = tonumber(meta[2])

-- Whether the store went on from that position. Then the commit comes after it, and the log has everything that does.
local continues = meta[1] == epoch and newest == revision and meta[3] == head
if meta[1] == epoch and newest > revision then
  local first = string.format('%.0f', revision + 1)
  local entry = redis.call('XRANGE', LOG, first, first)[1]
  local fields = entry and fields_of(entry) or {}
  continues = fields.i and fields.h == string.sub(redis.sha1hex(head .. fields.i), 1, 32)
end
local oldest = redis.call('XRANGE', LOG, '-', '+', 'COUNT', 1)[1]
local from = 1
if continues then
  from = revision + 1
elseif meta[1] == epoch then
  from = math.max(math.min(revision, newest) - LOST_AT_MOST, 1)
end
local is_whole = continues or (oldest and number(oldest) or newest + 1) <= from

local start = string.format('%.0f', from)
while true do
  local entries = redis.call('XRANGE', LOG, start, '+', 'COUNT', 128)
  if #entries == 0 then break end
  for _, entry in ipairs(entries) do
    local fields = fields_of(entry)
    if fields.i == id then
      -- The log is written first and the position last.
      if number(entry) > newest then
        return { 'broken' }
      end
      return { 'committed', id, string.match(entry[1], '^%d+'), fields.h, fields.c, meta[1] }
    end
    start = '(' .. entry[1]
  end
end
local now = tonumber(redis.call('TIME')[1])
redis.call('ZADD', CANCELLED, now, id)
redis.call('ZREMRANGEBYSCORE', CANCELLED, '-inf', now - REMEMBERED)
return { is_whole and 'cancelled' or 'forgotten' }
