#!lua
-- Leaves entries of the audit trail that belong to no commit; none where there is no registry, or one that is frozen.
--
-- KEYS: meta, audit_loose. ARGV: the entries.

for _, needed in ipairs({ { 'HMGET', KEYS[1] }, { 'RPUSH', KEYS[2] } }) do
  if not redis.acl_check_cmd(unpack(needed)) then
    return { 'forbidden', table.concat(needed, ' ') }
  end
end
local meta = redis.call('HMGET', KEYS[1], 'schema', 'frozen')
if meta[1] and not meta[2] then
  redis.call('RPUSH', KEYS[2], unpack(ARGV))
end
return { 'noted' }
