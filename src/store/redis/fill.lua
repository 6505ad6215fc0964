#!lua
-- Writes one piece of a registry that is not there yet. The pieces are numbered: one that was written is not written again, and
-- one that a failover has lost is missed by the next.
--
-- KEYS: unfinished, those of a commit (meta first), those of recalls. ARGV: who writes, the number, then commands: each is its
-- name, its key, how many arguments, and these.

-- Arguments of one command: as many as Lua's stack has room for, in whole pairs.
local PIECE = 4000

local unfinished = redis.call('HMGET', KEYS[1], 'writer', 'pieces')
if unfinished[1] ~= ARGV[1] or redis.call('EXISTS', KEYS[2]) == 1 then
  return { 'taken' }
end
if unfinished[2] == ARGV[2] then
  return { 'done' }
end
if tonumber(unfinished[2]) + 1 ~= tonumber(ARGV[2]) then
  return { 'lost' }
end
local at = 3
while at <= #ARGV do
  local command, key, count = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2])
  for first = at + 3, at + 2 + count, PIECE do
    redis.call(command, key, unpack(ARGV, first, math.min(first + PIECE - 1, at + 2 + count)))
  end
  at = at + 3 + count
end
redis.call('HSET', KEYS[1], 'pieces', ARGV[2])
return { 'done' }
