-- Turns a service's gRPC error into RFC 9457 problem details for REST clients.
-- Weir's services send the finished body, printable ASCII, in the header
-- "weir-problem"; for others it is made of the gRPC status.

local function text(message)
  -- grpc-message is percent-encoded (gRPC over HTTP/2, "Responses").
  message = message:gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end)
  return (message:gsub('[%c"\\]', function(c) return string.format("\\u%04x", c:byte()) end))
end

-- What the edge puts the transcoder's own message into, for malformed below alone.
local raw = '"transcoder":"'

-- malformed takes the transcoder's message, which repeats values, out of a problem of
-- the edge, and names the field or what is wrong with the JSON where it is one of the
-- messages known here.
local function malformed(handle)
  local whole = handle:body(true)
  local body = whole:getBytes(0, whole:length())
  local from, to = body:find(raw, 1, true)
  local stop = from and body:find('","type":"', to, true)
  if stop == nil then
    return
  end
  local message = body:sub(to + 1, stop - 1)
  local quote = '[\\u02]+"?'
  local field, detail = message:match("^Could not find field " .. quote .. "([%w_.-]+)" .. quote .. " in the type "), "is not known"
  if field == nil then
    field, detail = message:match("^([%w_.-]+): invalid value "), "has a value of the wrong type"
  end
  local known = ""
  if field ~= nil and #field <= 64 then
    known = '"errors":[{"field":"' .. field .. '","detail":"' .. detail .. '"}],'
  end
  local head = body:sub(1, from - 1)
  local syntax = message:match("^(%u[%w ,.:{}%[%]-]+)%.\\n")
  if syntax ~= nil and #syntax <= 100 then
    -- The reader's sentence; the line after it is what was sent.
    head = head:gsub('"detail":"[^"]*', function(said) return said .. ": " .. syntax end, 1)
  end
  handle:headers():replace("content-length", tostring(whole:setBytes(head .. known .. body:sub(stop + 2))))
end

function envoy_on_request(handle)
  handle:streamInfo():dynamicMetadata():set("weir", "request_id", handle:headers():get("x-request-id") or "")
end

function envoy_on_response(handle)
  local headers = handle:headers()
  local problem = headers:get("weir-problem")
  if problem == nil then
    local code = headers:get("grpc-status")
    local status = headers:get(":status")
    if code == nil and status == "400" and headers:get("content-type") == "application/problem+json" then
      malformed(handle)
      return
    end
    -- With status 200 the client spoke gRPC, and gets its answer as gRPC.
    if code == nil or code == "0" or status == "200" then
      return
    end
    local message = headers:get("grpc-message") or ""
    if code == "13" and message:find("unmarshal", 1, true) then
      -- The transcoder passed on text that is not UTF-8.
      code, status, message = "3", "400", "the request is malformed"
      headers:replace(":status", status)
    end
    local name = "GRPC_STATUS_" .. text(code)
    local title = "gRPC status " .. text(code)
    if code == "8" and message:find("received message larger than max", 1, true) then
      -- The edge passes a body on in pieces; what bounds one message is the
      -- service, and its runtime answers before the service can say so itself.
      status, name, title, message = "413", "PAYLOAD_TOO_LARGE", "Content Too Large", "the request body is larger than this service accepts"
      headers:replace(":status", status)
    end
    local metadata = handle:streamInfo():dynamicMetadata():get("weir") or {}
    problem = '{"type":"about:blank","title":"' .. title .. '","status":' .. status ..
      ',"detail":"' .. text(message) .. '","code":"' .. name .. '","requestId":"' .. text(metadata["request_id"] or "") .. '"}'
  end
  headers:replace("content-type", "application/problem+json")
  headers:replace("content-length", tostring(handle:body(true):setBytes(problem)))
end
