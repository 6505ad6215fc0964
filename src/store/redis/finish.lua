#!lua
-- Makes a registry of what was filled in, if all of it is there. Done twice, it finds what it did the first time.
--
-- KEYS: unfinished, those of a commit (meta first), those of recalls and of the audit trail. ARGV: who wrote, how many pieces, schema, epoch, revision,
-- head, checksum, the id of the commit.

local UNFINISHED, META, LOG = KEYS[1], KEYS[2], KEYS[14]

for key, commands in pairs({
  [UNFINISHED] = { 'HMGET', 'DEL' }, [META] = { 'HMGET', 'HSET' }, [LOG] = { 'XADD' },
}) do
  for _, command in ipairs(commands) do
    if not redis.acl_check_cmd(command, key) then
      return { 'forbidden', command .. ' ' .. key }
    end
  end
end
local head = redis.call('HMGET', META, 'head')[1]
if head then
  return { head == ARGV[6] and 'done' or 'taken' }
end
local unfinished = redis.call('HMGET', UNFINISHED, 'writer', 'pieces')
if unfinished[1] ~= ARGV[1] then
  return { 'taken' }
end
if unfinished[2] ~= ARGV[2] then
  return { 'lost' }
end
redis.call('XADD', LOG, ARGV[5] .. '-0', 'h', ARGV[6], 'c', ARGV[7], 'd', '', 'n', '0', 'i', ARGV[8])
redis.call('HSET', META, 'schema', ARGV[3], 'epoch', ARGV[4], 'revision', ARGV[5], 'head', ARGV[6], 'checksum', ARGV[7],
  'log_changes', '0', 'settled', '0')
redis.call('DEL', UNFINISHED)
return { 'done' }
