-- Turns a service's gRPC error into RFC 9457 problem details for REST clients.
-- Weir's services send the finished body, printable ASCII, in the header
-- "weir-problem"; for others it is made of the gRPC status.

local function text(message)
  -- grpc-message is percent-encoded (gRPC over HTTP/2, "Responses").
  message = message:gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end)
  return (message:gsub('[%c"\\]', function(c) return string.format("\\u%04x", c:byte()) end))
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
