-- Turns a service's gRPC error into RFC 9457 problem details for REST clients.
-- Weir's services send the finished body, printable ASCII, in the header
-- "weir-problem"; for others it is made of the gRPC status.

local function text(message)
  -- grpc-message is percent-encoded (gRPC over HTTP/2, "Responses").
  message = message:gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end)
  return (message:gsub('[%c"\\]', function(c) return string.format("\\u%04x", c:byte()) end))
end

function envoy_on_response(handle)
  local headers = handle:headers()
  local problem = headers:get("weir-problem")
  if problem == nil then
    local code = headers:get("grpc-status")
    if code == nil or code == "0" then
      return
    end
    local status = headers:get(":status")
    problem = '{"type":"about:blank","title":"gRPC status ' .. text(code) .. '","status":' .. status ..
      ',"detail":"' .. text(headers:get("grpc-message") or "") .. '","code":"GRPC_STATUS_' .. text(code) ..
      '","requestId":"' .. text(headers:get("x-request-id") or "") .. '"}'
  end
  headers:replace("content-type", "application/problem+json")
  headers:replace("content-length", tostring(handle:body(true):setBytes(problem)))
end
