#!lua
-- Begins to fill a namespace that is empty, or that another one has left unfinished, whose writes are removed and no longer
-- taken.
--
-- KEYS: unfinished, those of a commit (meta first), those of recalls and of the audit trail. ARGV: who writes.

for position, key in ipairs(KEYS) do
  for _, command in ipairs({ 'EXISTS', 'UNLINK', 'HSET' }) do
    if not redis.acl_check_cmd(command, key) then
      return { 'forbidden', command .. ' ' .. key }
    end
  end
end
if redis.call('EXISTS', KEYS[2]) == 1 then
  return { 'registry' }
end
if redis.call('EXISTS', KEYS[1]) == 0 then
  for position = 3, #KEYS do
    if redis.call('EXISTS', KEYS[position]) == 1 then
      return { 'foreign', KEYS[position] }
    end
  end
end
redis.call('HSET', KEYS[1], 'writer', ARGV[1], 'pieces', '0')
-- A million tokens are freed beside everything else: DEL would hold up every other client.
for position = 3, #KEYS do
  redis.call('UNLINK', KEYS[position])
end
return { 'done' }
