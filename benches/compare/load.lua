-- What wrk sends, told by environment variables: LOAD_METHOD, LOAD_PATH, LOAD_TOKENS (a file, one token a line, used in
-- turn), LOAD_BODY (a file) and LOAD_HEADERS (a file of `Name: value` lines). Requests are built once, so that the load
-- costs its core as little as possible.

local requests, turn = {}, 0

local function read(name)
    local path = os.getenv(name)
    if not path then return nil end
    local file = assert(io.open(path, "rb"))
    local text = file:read("*a")
    file:close()
    return text
end

function init()
    local headers = {}
    for name, value in (read("LOAD_HEADERS") or ""):gmatch("([^:\n]+): ([^\n]+)") do headers[name] = value end
    local body = read("LOAD_BODY")
    for token in read("LOAD_TOKENS"):gmatch("[^\n]+") do
        headers["Authorization"] = "Bearer " .. token
        requests[#requests + 1] = wrk.format(os.getenv("LOAD_METHOD"), os.getenv("LOAD_PATH"), headers, body)
    end
end

function request()
    turn = turn % #requests + 1
    return requests[turn]
end

function done(summary, latency)
    local errors = summary.errors
    io.write(string.format(
        'RESULT {"requests": %d, "microseconds": %d, "connect": %d, "read": %d, "write": %d, "timeout": %d, '
            .. '"status": %d, "p50_us": %d, "p99_us": %d}\n',
        summary.requests, summary.duration, errors.connect, errors.read, errors.write, errors.timeout,
        errors.status, latency:percentile(50), latency:percentile(99)))
end
