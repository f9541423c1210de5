"""What happens to an entry inside Redis, each step atomic, in one hash: whatever removes a part of it removes all.

A hash holds an entry (a body, or none: there is nothing), a token (somebody is loading), a floor (the newest state that
is known to be durable), or several of them. A script may also find nothing (evicted, flushed, expired), something of
another program, or a hash that was written before Redis was restarted: what a restart brings back from a disk or a
replica may have been invalidated since, so a hash counts in the run of the server alone in which it was written.

- Whoever takes a token loads *afterwards*, and may fill only while the token is there. Every invalidation takes tokens
  away, as do evictions, restarts and time: so no load can fill that began before an invalidation.
- The floor is for loads that began after it and saw less (a replica of Cosmos DB that is behind): what is older is not
  filled. It is (epoch, version, gone); `gone` is 1 for a delete, so that only what was created again comes after it.
- What was written without a known stamp closes the entry to fills for a moment instead.

Times are Redis' own, in milliseconds; only differences of them leave the server. When Redis is full, what takes away
still works, and entries are not added: the first change of a script that adds one is what Redis refuses then.
"""

from __future__ import annotations

from typing import Final

_BEGIN: Final = """
local key = KEYS[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local info = redis.pcall('INFO', 'server')
local run = type(info) == 'string' and string.match(info, 'run_id:(%w+)') or '?'

local names = {'run', 'token', 'token_since', 'token_until', 'floor_epoch', 'floor_version', 'floor_gone',
  'floor_until', 'absent', 'closed_until', 'until', 'since', 'phase', 'epoch', 'version'}
local kept = redis.pcall('HMGET', key, unpack(names))
if kept.err or (kept[1] and kept[1] ~= run) then
  redis.call('DEL', key)
  kept = {}
end
local function from_the_future(i, ms) return (tonumber(kept[i] or 0) or 0) > now + ms end
if from_the_future(3, 1000) or from_the_future(12, 1000) or from_the_future(10, 60000) then  -- the clock went back
  redis.call('DEL', key)
  kept = {}
end
local is = {}
for i, name in ipairs(names) do is[name] = kept[i] or nil end

local function at(name) return tonumber(is[name]) or 0 end
local function drop(...) redis.call('HDEL', key, ...) end
local function drop_entry() drop('until', 'since', 'phase', 'epoch', 'version', 'body') end
local function drop_token() drop('token', 'token_since', 'token_until') end
local function put(ms, ...)
  local done = redis.pcall('HSET', key, 'run', run, ...)
  if type(done) == 'table' and done.err then
    if string.find(done.err, 'OOM') then return false end
    error(done.err)
  end
  if redis.call('PTTL', key) < ms then redis.call('PEXPIRE', key, ms) end
  return true
end
local has_floor = at('floor_until') > now
local function above_floor(epoch, version, gone)
  local step = epoch - at('floor_epoch')
  if step == 0 then step = version - at('floor_version') end
  if step == 0 then step = gone - at('floor_gone') end
  return step
end
"""

LOOK: Final = (
    _BEGIN
    + """
-- ARGV: my token, how long it lives, the epoch of my phase
local mine = tonumber(ARGV[3])
if run == '?' then return {'pass'} end  -- without INFO nobody knows what a restart has brought back
if at('until') > now then
  if at('phase') == mine then
    return {'hit', now - at('since'), is.since, is.epoch, is.version, redis.call('HGET', key, 'body')}
  end
  if at('phase') > mine then return {'pass'} end
end
if is.token and is.token ~= ARGV[1] and at('token_until') > now then return {'wait', now - at('token_since')} end
if at('closed_until') > now then return {'pass'} end
if is.token == ARGV[1] then return {'lead'} end
if is['until'] then drop_entry() end
if put(tonumber(ARGV[2]), 'token', ARGV[1], 'token_since', now, 'token_until', now + ARGV[2]) then return {'lead'} end
return {'pass'}
"""
)
"""Return the entry, or take the token: what is read from now on may be filled."""

FILL: Final = (
    _BEGIN
    + """
-- ARGV: my token, how long the entry lives, the epoch of my phase, found|absent|pointer, epoch, version, body
if is.token ~= ARGV[1] or at('token_until') <= now then return 0 end
local ms, kind, epoch, version = tonumber(ARGV[2]), ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local refused = at('closed_until') > now
if has_floor and kind == 'absent' and is.absent ~= '1' then refused = true end
if has_floor and kind == 'found' and above_floor(epoch, version, 0) < 0 then refused = true end
if refused or not put(ms, 'until', now + ms, 'since', is.token_since, 'phase', ARGV[3], 'epoch', ARGV[5],
  'version', ARGV[6], 'body', ARGV[7]) then
  drop_token()
  return 0
end
drop_token()
if kind == 'found' then
  put(ms, 'floor_epoch', epoch, 'floor_version', version, 'floor_gone', 0, 'floor_until', now + ms, 'absent', 0)
end
return 1
"""
)
"""Keep what was loaded under a token that is still there."""

RELEASE: Final = (
    _BEGIN
    + """
-- ARGV: my token
if is.token ~= ARGV[1] then return 0 end
drop_token()
return 1
"""
)
"""Let somebody else load."""

REFUSE: Final = (
    _BEGIN
    + """
-- ARGV: since when the entry is that was refused
if is.since ~= ARGV[1] then return 0 end
drop_entry()
return 1
"""
)
"""Remove exactly the entry that was seen."""

CHANGE: Final = (
    _BEGIN
    + """
-- ARGV: after|instead|unknown, epoch, version, gone, how long the floor lives, how long it is closed, body to keep
local how, epoch, version, gone = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local there = at('until') > now and 1 or 0
-- What is here, an entry or a token, came after this change was told before, or after a later one.
if how == 'after' and has_floor and above_floor(epoch, version, gone) <= 0 then return 0 end
drop_token()
if there == 1 and ARGV[7] ~= '' and redis.call('HGET', key, 'body') == ARGV[7] then return 0 end
drop_entry()
if how == 'unknown' then
  if tonumber(ARGV[6]) > 0 then put(tonumber(ARGV[6]), 'absent', 1, 'closed_until', now + ARGV[6]) end
else
  put(tonumber(ARGV[5]), 'floor_epoch', epoch, 'floor_version', version, 'floor_gone', gone,
    'floor_until', now + ARGV[5], 'absent', gone)
end
return there
"""
)
"""Take away what is older than a change: `after` whatever its document was before, `instead` of it, or `unknown`."""
