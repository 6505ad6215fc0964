#!lua
-- Remembers uses of tokens: of each the last one wins, so what is told twice or late changes nothing.
--
-- KEYS: usage. What a sidecar may only read is no key here: Redis would ask for the right to write it.
-- ARGV: meta, tokens, how many agents of a token are all there, how many of each later level, how many more there may be for a
-- while, how many levels there are, for how many milliseconds agents are remembered; what this server's clock said when what
-- follows was true, and when it was sent, as far as the sender knows (else empty), and by how many milliseconds that may differ from
-- what it says; then for each token its id, how many milliseconds ago it was used last, how many agents follow, and for each its
-- name, how long ago, its address, its version or nothing.
--
-- Returns what the clock says. Of what differs by more nothing is remembered: it lay in a socket for long, or the clock was set.

local USAGE, META, TOKENS = KEYS[1], ARGV[1], ARGV[2]
local EXACT, SAMPLED, SLACK = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local LEVELS, REMEMBERED = tonumber(ARGV[6]), tonumber(ARGV[7])
local AS_OF, SENT, LATE = tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])

-- Old agents that are forgotten at once; more of them with the next uses.
local FORGOTTEN = 500

if not redis.call('HMGET', META, 'epoch')[1] then
  return { 'absent' }
end

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local function text(number)
  return string.format('%.0f', number)
end
redis.call('ZADD', USAGE, 'NX', now, 'since')
if not AS_OF or math.abs(now - SENT) > LATE then
  return { 'late', text(now) }
end
local function ago(age)
  return math.min(math.max(AS_OF - tonumber(age), 0), now)
end

-- Whose address another one has by now is not found by it any more.
local function unbind(who, name, known)
  local bound = '>' .. string.match(known, '^%S*')
  if redis.call('HMGET', who, bound)[1] == name then
    redis.call('HDEL', who, bound)
  end
end

local function forget(seen, who, names)
  for position, known in ipairs(redis.call('HMGET', who, unpack(names))) do
    if known then
      unbind(who, names[position], known)
    end
  end
  redis.call('HDEL', who, unpack(names))
  redis.call('ZREM', seen, unpack(names))
end

-- Drops every second one of those that are too many, see `Levels`.
local function thin(seen, who)
  local bounds = {}
  for bound in string.gmatch(redis.call('HMGET', who, 'levels')[1] or '', '%d+') do
    bounds[#bounds + 1] = bound
  end
  local upper, moved = '+inf', false
  for level = 1, LEVELS do
    local lower = bounds[level] and '(' .. bounds[level] or '-inf'
    local excess = redis.call('ZCOUNT', seen, lower, upper) - (level == 1 and EXACT or SAMPLED)
    if excess <= SLACK then
      break
    end
    local last = redis.call('ZRANGE', seen, lower, upper, 'BYSCORE', 'LIMIT', excess - 1, 1, 'WITHSCORES')
    local bound = text(tonumber(last[2]))
    local dropped = {}
    for _, name in ipairs(redis.call('ZRANGE', seen, lower, bound, 'BYSCORE')) do
      local hash = tonumber(string.sub(redis.sha1hex(name), 1, 4), 16)
      if bit.band(bit.rshift(hash, level - 1), 1) == 1 then
        dropped[#dropped + 1] = name
      end
      if #dropped == FORGOTTEN then
        forget(seen, who, dropped)
        dropped = {}
      end
    end
    if #dropped > 0 then
      forget(seen, who, dropped)
    end
    bounds[level], upper, moved = bound, bound, true
  end
  if moved then
    redis.call('HSET', who, 'levels', table.concat(bounds, ' '))
  end
end

-- `from` is the place of the first of them.
local function agents(token, from, count)
  local seen, who = USAGE .. ':' .. token, USAGE .. ':' .. token .. ':agents'
  local fields = {}
  for agent = 0, count - 1 do
    local at = from + agent * 4
    fields[agent + 1] = ARGV[at]
  end
  local known = redis.call('HMGET', who, unpack(fields))
  local scores, details, unnamed = {}, {}, {}
  local function bound_to(address)
    return redis.call('HMGET', who, '>' .. address)[1]
  end
  for agent = 0, count - 1 do
    local at = from + agent * 4
    local name, address, version = ARGV[at], ARGV[at + 2], ARGV[at + 3]
    local is_named, before = string.sub(name, 1, 1) == '=', known[agent + 1]
    -- Without a name it is one that has one, fetching its configuration say.
    if is_named or not bound_to(address) then
      scores[#scores + 1] = ago(ARGV[at + 1])
      scores[#scores + 1] = name
      local detail = version == '' and address or address .. ' ' .. version
      if before ~= detail then
        details[#details + 1] = name
        details[#details + 1] = detail
        if is_named then
          if before then
            unbind(who, name, before)
          end
          details[#details + 1] = '>' .. address
          details[#details + 1] = name
          unnamed[#unnamed + 1] = '@' .. address
        end
      end
    end
  end
  if #scores == 0 then
    return
  end
  redis.call('ZADD', seen, 'GT', unpack(scores))
  if #details > 0 then
    redis.call('HSET', who, unpack(details))
  end
  if #unnamed > 0 then
    redis.call('ZREM', seen, unpack(unnamed))
    redis.call('HDEL', who, unpack(unnamed))
  end
  -- What lies ahead was written before the clock was set back.
  for _, name in ipairs(redis.call('ZRANGE', seen, '(' .. text(now), '+inf', 'BYSCORE', 'LIMIT', 0, FORGOTTEN)) do
    redis.call('ZADD', seen, text(now), name)
  end
  local old = redis.call('ZRANGE', seen, '-inf', '(' .. text(now - REMEMBERED), 'BYSCORE', 'LIMIT', 0, FORGOTTEN)
  if #old > 0 then
    forget(seen, who, old)
  end
  if redis.call('ZCARD', seen) > EXACT then
    thin(seen, who)
  end
end

local at = 11
while at <= #ARGV do
  local token, age, count = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2])
  if redis.call('HEXISTS', TOKENS, token) == 1 then
    local used, known = ago(age), tonumber(redis.call('ZMSCORE', USAGE, token)[1] or '-1')
    if used > known or known > now then
      redis.call('ZADD', USAGE, used, token)
    end
    if count > 0 then
      agents(token, at + 3, count)
    end
  end
  at = at + 3 + count * 4
end
return { 'done', text(now) }
