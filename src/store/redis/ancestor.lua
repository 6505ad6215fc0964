#!lua flags=no-writes
-- The first of some places that the change log shows, so that little is carried whatever the entries hold: which one it is, or
-- 0; and the revision with which the log begins.
--
-- KEYS: log. ARGV: the places, each a revision and the head there.

local function head_in(entry)
  local fields = entry and entry[2] or {}
  for field = 1, #fields, 2 do
    if fields[field] == 'h' then return fields[field + 1] end
  end
end

local shown = 0
for place = 1, #ARGV / 2 do
  local id = ARGV[2 * place - 1] .. '-0'
  if head_in(redis.call('XRANGE', KEYS[1], id, id)[1]) == ARGV[2 * place] then
    shown = place
    break
  end
end
local oldest = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
return { shown, oldest and string.match(oldest[1], '^%d+') or false }
