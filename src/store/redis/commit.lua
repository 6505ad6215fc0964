-- Commits one batch, whole or not at all. No rules: what is written was decided and laid out by the caller; here it is
-- only checked that what the decision rests on still holds. Every check comes before the first write.
--
-- ARGV: what `take` and `list` below read, in their order. A list is its length, then its items.

local META, USERS, NAMES, TOKENS, GRANTS, OWNERS, REVOKED, RETIRED, BY_STATE, BY_OWNER, EXPIRING, HISTORY, LOG, CANCELLED,
  TOKEN_SETS, USAGE, AUDIT_LOOSE =
  unpack(KEYS)
local KINDS = { 'hash', 'hash', 'hash', 'hash', 'hash', 'hash', 'hash', 'zset', 'zset', 'zset', 'zset', 'hash', 'stream',
  'zset', 'hash', 'zset', 'list' }

-- Arguments of one command: as many as Lua's stack has room for, in whole pairs.
local PIECE = 4000

local at = 0

local function take()
  at = at + 1
  return ARGV[at]
end

-- Where the next list begins and ends.
local function list()
  local length = tonumber(take())
  local from = at + 1
  at = at + length
  return from, at
end

-- Calls `each` for the pieces of a range.
local function pieces(from, to, each)
  for first = from, to, PIECE do
    each(first, math.min(first + PIECE - 1, to))
  end
end

local channel, id, schema, delta = take(), take(), take(), take()
local count, changes = tonumber(take()), take()
-- How it is announced: a space, with all that it changes, or one of the other marks that layout.rs has, without.
local mark = take()
-- Ids of tokens that it touches and of which the changes do not tell.
local untold = take()
local most_entries, most_changes = tonumber(take()), tonumber(take())
local most_retired, retired_age = tonumber(take()), tonumber(take())
local most_history = tonumber(take())

-- What a user may not do ends a script at once, and nothing that it did before is taken back. So this comes
-- first: everything below, and what settles an outcome that is in doubt (resolve.lua).
local COMMANDS = {
  hash = { 'TYPE', 'HGET', 'HMGET', 'HLEN', 'HSET', 'HDEL' },
  zset = { 'TYPE', 'ZSCORE', 'ZMSCORE', 'ZCARD', 'ZCOUNT', 'ZADD', 'ZREM', 'ZREMRANGEBYRANK', 'ZREMRANGEBYSCORE' },
  stream = { 'TYPE', 'XRANGE', 'XLEN', 'XADD', 'XTRIM' },
  list = { 'TYPE', 'RPUSH' },
}
local forbidden = {}
local function need(command, on)
  if not redis.acl_check_cmd(command, unpack({ on })) then
    forbidden[#forbidden + 1] = on and (command .. ' ' .. on) or command
  end
end
for position, kind in ipairs(KINDS) do
  for _, command in ipairs(COMMANDS[kind]) do
    need(command, KEYS[position])
  end
end
need('TIME')
need('DEL', USAGE .. ':')
need('PUBLISH', channel)
if #forbidden > 0 then
  return { 'forbidden', table.concat(forbidden, ', ', 1, math.min(#forbidden, 3)) }
end

for position, kind in ipairs(KINDS) do
  local found = redis.call('TYPE', KEYS[position]).ok
  if found ~= kind and found ~= 'none' then
    return { 'type', KEYS[position], found }
  end
end
local meta = redis.call('HMGET', META, 'schema', 'epoch', 'revision', 'checksum', 'log_changes', 'head', 'frozen')
if not meta[1] then
  return { 'absent' }
end
if meta[1] ~= schema then
  return { 'schema', meta[1] }
end
if meta[7] then
  return { 'frozen', meta[7] }
end
-- Its outcome was asked for, and the answer was that it had not been and would not be committed.
if redis.call('ZSCORE', CANCELLED, id) then
  return { 'cancelled' }
end

-- Records, by id, must begin with their version; with the empty one, they must not exist.
local function versions_hold(key)
  local from, to = list()
  local versions = list()
  for first = from, to, PIECE do
    local last = math.min(first + PIECE - 1, to)
    local records = redis.call('HMGET', key, unpack(ARGV, first, last))
    for position, record in ipairs(records) do
      local version = ARGV[versions + first - from + position - 1]
      if version == '' then
        if record then return false end
      elseif not record or string.sub(record, 1, #version) ~= version then
        return false
      end
    end
  end
  return true
end

if not versions_hold(USERS) or not versions_hold(TOKENS) then
  return { 'conflict' }
end

-- What is not there must still not be: no user at all, and no token that came to a user since.
local no_users = take()
if no_users == 'true' and redis.call('HLEN', USERS) > 0 then
  return { 'conflict' }
end
local from, to = list()
for position = from, to, 2 do
  if (redis.call('HGET', TOKEN_SETS, ARGV[position]) or '') ~= ARGV[position + 1] then
    return { 'conflict' }
  end
end

-- Tokens that must exist, whatever their version.
local gone = false
from, to = list()
pieces(from, to, function(first, last)
  for _, record in ipairs(redis.call('HMGET', TOKENS, unpack(ARGV, first, last))) do
    gone = gone or not record
  end
end)
if gone then
  return { 'conflict' }
end

-- Digests and names that must be free.
local refusal
local function must_be_free(word, command, key, from, to)
  pieces(from, to, function(first, last)
    for position, holder in ipairs(redis.call(command, key, unpack(ARGV, first, last))) do
      if holder and not refusal then
        refusal = { word, ARGV[first + position - 1] }
      end
    end
  end)
end
from, to = list()
must_be_free('taken', 'HMGET', GRANTS, from, to)
must_be_free('taken', 'HMGET', REVOKED, from, to)
must_be_free('retired', 'ZMSCORE', RETIRED, from, to)
from, to = list()
must_be_free('name', 'HMGET', NAMES, from, to)
if refusal then
  return refusal
end

-- From here on everything succeeds, but for the very first write: it fails if the log is ahead of the revision.
local epoch, revision = meta[2], string.format('%.0f', tonumber(meta[3]) + 1)
local retained_changes = tonumber(meta[5]) + count
local function half(first, last)
  return bit.tohex(bit.bxor(tonumber(string.sub(meta[4], first, last), 16), tonumber(string.sub(delta, first, last), 16)))
end
local checksum = half(1, 8) .. half(9, 16)
local head = string.sub(redis.sha1hex(meta[6] .. id), 1, 32)
local entry = { 'h', head, 'c', checksum, 'd', changes, 'n', count, 'i', id }
if untold ~= '' then
  entry[#entry + 1], entry[#entry + 2] = 't', untold
end
redis.call('XADD', LOG, revision .. '-0', unpack(entry))

local now = tonumber(redis.call('TIME')[1])
local retired = 0

-- Fields whose values have something before them.
local function prefixed(prefix)
  return function(key, first, last)
    local pairs = {}
    for position = first, last, 2 do
      pairs[#pairs + 1] = ARGV[position]
      pairs[#pairs + 1] = prefix .. ARGV[position + 1]
    end
    redis.call('HSET', key, unpack(pairs))
  end
end

local write = {
  -- Records, which begin with their version.
  VERSIONED = prefixed(id .. ' '),
  -- What replicas know of users: which commit made it so comes first.
  STAMPED = prefixed(id .. ' ' .. revision .. ' '),
  -- Fields whose value is the commit's id.
  MARK = function(key, first, last)
    local pairs = {}
    for position = first, last do
      pairs[#pairs + 1] = ARGV[position]
      pairs[#pairs + 1] = id
    end
    redis.call('HSET', key, unpack(pairs))
  end,
  -- Entries of histories: each takes the place of the one that is `most_history` before it.
  APPEND = function(key, first, last)
    local counters = {}
    for position = first, last, 2 do
      counters[#counters + 1] = ARGV[position] .. '+'
    end
    local counts, added, pairs = redis.call('HMGET', key, unpack(counters)), {}, {}
    for position, counter in ipairs(counters) do
      local number, id = added[counter] or tonumber(counts[position] or 0), first + position * 2 - 2
      added[counter] = number + 1
      pairs[#pairs + 1] = counter
      pairs[#pairs + 1] = number + 1
      pairs[#pairs + 1] = string.format('%s%02d', ARGV[id], number % most_history)
      pairs[#pairs + 1] = number .. ' ' .. ARGV[id + 1]
    end
    redis.call('HSET', key, unpack(pairs))
  end,
  -- Histories, with all of their entries.
  FORGET = function(key, first, last)
    local counters, fields = {}, {}
    for position = first, last do
      counters[#counters + 1] = ARGV[position] .. '+'
    end
    for position, count in ipairs(redis.call('HMGET', key, unpack(counters))) do
      local id = ARGV[first + position - 1]
      fields[#fields + 1] = id
      if count then
        fields[#fields + 1] = id .. '+'
        for place = 0, math.min(tonumber(count), most_history) - 1 do
          fields[#fields + 1] = string.format('%s%02d', id, place)
        end
      end
    end
    pieces(1, #fields, function(from, to)
      redis.call('HDEL', key, unpack(fields, from, to))
    end)
  end,
  -- Tokens whose use is forgotten, with their agents.
  DISUSE = function(key, first, last)
    -- Many agents are better freed beside everything else. The rules of earlier versions have only the other.
    local drop = redis.acl_check_cmd('UNLINK', key .. ':') and 'UNLINK' or 'DEL'
    redis.call('ZREM', key, unpack(ARGV, first, last))
    for position = first, last do
      local seen = key .. ':' .. ARGV[position]
      redis.call(drop, seen, seen .. ':agents')
    end
  end,
  -- Members whose score is the time.
  RETIRE = function(key, first, last)
    local pairs = {}
    for position = first, last do
      pairs[#pairs + 1] = now
      pairs[#pairs + 1] = ARGV[position]
    end
    redis.call('ZADD', key, unpack(pairs))
    retired = retired + last - first + 1
  end,
}
while at < #ARGV do
  local command, key = take(), KEYS[tonumber(take())]
  from, to = list()
  local apply = write[command] or function(key, first, last)
    redis.call(command, key, unpack(ARGV, first, last))
  end
  -- What becomes two arguments for each one here needs room for both.
  local piece = PIECE / 2
  for first = from, to, piece do
    apply(key, first, math.min(first + piece - 1, to))
  end
end

-- Drops the oldest entries of the log until it is within its bounds again; the newest one stays. What is too much for
-- one commit is left to the next ones.
local entries = redis.call('XLEN', LOG)
local last_dropped, batch, budget = nil, 2, 4096
while (entries > most_entries or retained_changes > most_changes) and entries > 1 and budget > 0 do
  local start = last_dropped and ('(' .. last_dropped) or '-'
  local oldest = redis.call('XRANGE', LOG, start, '+', 'COUNT', batch)
  for _, entry in ipairs(oldest) do
    if (entries <= most_entries and retained_changes <= most_changes) or entries <= 1 then break end
    local fields = entry[2]
    for position = 1, #fields, 2 do
      if fields[position] == 'n' then retained_changes = retained_changes - (tonumber(fields[position + 1]) or 0) end
    end
    entries, last_dropped = entries - 1, entry[1]
  end
  budget = budget - batch
  batch = math.min(batch * 2, 64)
end
if last_dropped then
  local next_id = string.format('%.0f', tonumber(string.match(last_dropped, '^%d+')) + 1)
  redis.call('XTRIM', LOG, 'MINID', '=', next_id)
end

-- Forgets deleted digests that are old enough, and the oldest where there are too many; as above, some at a time.
local excess = redis.call('ZCARD', RETIRED) - most_retired
local old = redis.call('ZCOUNT', RETIRED, '-inf', now - retired_age)
local forget = math.min(math.max(excess, old), 1000 + retired)
if forget > 0 then
  redis.call('ZREMRANGEBYRANK', RETIRED, 0, forget - 1)
end

redis.call('HSET', META, 'revision', revision, 'head', head, 'checksum', checksum, 'log_changes',
  string.format('%.0f', retained_changes))
redis.call('PUBLISH', channel, epoch .. id .. head .. checksum .. revision .. mark .. (mark == ' ' and changes or ''))
return { 'committed', id, revision, head, checksum, epoch }
