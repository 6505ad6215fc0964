#!lua
-- Writes one piece of a registry that is not there yet. The pieces are numbered: one that was written is not written again, and
-- one that a failover has lost is missed by the next.
--
-- KEYS: unfinished, those of a commit (meta first), those of recalls and of the audit trail. ARGV: who writes, the number, then commands: each is its
-- name, its key, how many arguments, and these.

-- Arguments of one command: as many as Lua's stack has room for, in whole pairs.
local PIECE = 4000

-- Where each command begins.
local commands, at = {}, 3
while at <= #ARGV do
  commands[#commands + 1] = at
  at = at + 3 + tonumber(ARGV[at + 2])
end
-- Redis takes nothing back of what a script has written before it is refused something.
for _, at in ipairs(commands) do
  if not redis.acl_check_cmd(ARGV[at], ARGV[at + 1]) then
    return { 'forbidden', ARGV[at] .. ' ' .. ARGV[at + 1] }
  end
end
for _, command in ipairs({ 'HMGET', 'HSET' }) do
  if not redis.acl_check_cmd(command, KEYS[1]) then
    return { 'forbidden', command .. ' ' .. KEYS[1] }
  end
end
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
for _, at in ipairs(commands) do
  local command, key, last = ARGV[at], ARGV[at + 1], at + 2 + tonumber(ARGV[at + 2])
  for first = at + 3, last, PIECE do
    redis.call(command, key, unpack(ARGV, first, math.min(first + PIECE - 1, last)))
  end
end
redis.call('HSET', KEYS[1], 'pieces', ARGV[2])
return { 'done' }
