#!lua flags=allow-oom
-- Takes a step of the audit trail: its loose entries become lines, if both the newest line and the first loose entries are
-- what they were when they were read. With the memory full, too: what a commit that only takes away has left is chained.
--
-- KEYS: meta, audit, audit_loose. ARGV: the schema; the newest line's number and the line (both empty: there is none); up to
-- which line they go (empty: none); how many loose entries, and these; then each line's number and the line.

local META, AUDIT, LOOSE = unpack(KEYS)

-- What a user may not do ends a script at once, and nothing that it did before is taken back.
for _, needed in ipairs({
  { 'HMGET', META }, { 'XREVRANGE', AUDIT }, { 'XADD', AUDIT }, { 'XSETID', AUDIT }, { 'XTRIM', AUDIT },
  { 'LRANGE', LOOSE }, { 'LTRIM', LOOSE },
}) do
  if not redis.acl_check_cmd(unpack(needed)) then
    return { 'forbidden', table.concat(needed, ' ') }
  end
end
local meta = redis.call('HMGET', META, 'schema', 'frozen')
if not meta[1] then
  return { 'absent' }
end
if meta[1] ~= ARGV[1] or meta[2] then
  return { 'changed' }
end
local newest = redis.call('XREVRANGE', AUDIT, '+', '-', 'COUNT', 1)[1]
local number, line = '', ''
if newest then
  number, line = string.match(newest[1], '^%d+'), newest[2][2]
end
if number ~= ARGV[2] or line ~= ARGV[3] then
  return { 'changed' }
end
local count = tonumber(ARGV[5])
if count > 0 then
  local loose = redis.call('LRANGE', LOOSE, 0, count - 1)
  for position = 1, count do
    if loose[position] ~= ARGV[5 + position] then
      return { 'changed' }
    end
  end
end
local function add(position)
  return redis.pcall('XADD', AUDIT, ARGV[position] .. '-0', 'l', ARGV[position + 1])
end
for position = 6 + count, #ARGV, 2 do
  -- A stream remembers the number of an entry that somebody took off its end, and takes no lower one.
  if add(position).err then
    redis.call('XSETID', AUDIT, newest and newest[1] or '0-0')
    newest = { ARGV[position] .. '-0' }
    add(position)
  end
end
if count > 0 then
  redis.call('LTRIM', LOOSE, count, -1)
end
if ARGV[4] ~= '' then
  redis.call('XTRIM', AUDIT, 'MINID', '=', string.format('%.0f', tonumber(ARGV[4]) + 1))
end
return { 'linked' }
