package record

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	decisionv1 "weir.dev/api/gen/weir/decision/v1"
	"weir.dev/extauthz"
	"weir.dev/kit/fault"
)

// OCSFVersion is the version of the Open Cybersecurity Schema Framework that
// OCSF writes (schema.ocsf.io).
const OCSFVersion = "1.2.0"

// Classes of OCSF, and their category Application Activity.
const (
	ocsfCategory     = 6
	ocsfAPIActivity  = 6003
	ocsfLifecycle    = 6002
	ocsfOther        = 99
	ocsfStart        = 3
	ocsfSuccess      = 1
	ocsfFailure      = 2
	ocsfInformation  = 1
	ocsfLow          = 2
	ocsfMedium       = 3
	ocsfProduct      = "Weir"
	ocsfLogName      = "weir.extauthz.audit"
	ocsfNoIdentifier = "none"
)

// OCSF makes an event of a record of the audit log: API Activity of a decision,
// Application Lifecycle of an event of the log's own. seq is the record's number.
func OCSF(seq int64, raw []byte) ([]byte, error) {
	var own struct {
		Event string    `json:"event"`
		Time  time.Time `json:"time"`
	}
	if err := json.Unmarshal(raw, &own); err != nil {
		return nil, fmt.Errorf("record %d: %w", seq, err)
	}
	if own.Event != "" {
		return json.Marshal(ocsfEvent(seq, own.Event, own.Time, raw))
	}
	decision, err := Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("record %d: %w", seq, err)
	}
	return json.Marshal(ocsfDecision(seq, decision))
}

type object = map[string]any

func ocsfBase(seq int64, class, activity int, at time.Time, uid string) object {
	return object{
		"category_uid": ocsfCategory, "class_uid": class, "activity_id": activity, "type_uid": class*100 + activity,
		"time": at.UnixMilli(), "severity_id": ocsfInformation, "severity": "Informational",
		"metadata": some(object{
			"version": OCSFVersion, "uid": uid, "sequence": seq, "log_name": ocsfLogName,
			"product": object{"name": ocsfProduct, "vendor_name": ocsfProduct, "feature": object{"name": "extauthz"}},
		}),
	}
}

func ocsfEvent(seq int64, event string, at time.Time, raw []byte) object {
	activity, name := ocsfOther, event
	if event == "AUDIT_OPENED" {
		activity, name = ocsfStart, "Start"
	}
	out := ocsfBase(seq, ocsfLifecycle, activity, at, fmt.Sprintf("%s-%d", event, seq))
	out["class_name"], out["category_name"], out["activity_name"] = "Application Lifecycle", "Application Activity", name
	out["app"] = object{"name": "extauthzd", "vendor_name": ocsfProduct}
	out["message"] = "the audit log was opened"
	if activity == ocsfOther {
		out["message"] = "the audit log's unfinished end was cut off after a crash"
		out["severity_id"], out["severity"] = ocsfMedium, "Medium"
		out["unmapped"] = json.RawMessage(raw)
	}
	return out
}

func ocsfDecision(seq int64, d *decisionv1.Decision) object {
	request := d.GetRequest()
	activity, name := ocsfActivity(request.GetMethod())
	out := ocsfBase(seq, ocsfAPIActivity, activity, d.GetTime().AsTime(), d.GetId())
	out["class_name"], out["category_name"], out["activity_name"] = "API Activity", "Application Activity", name
	answer := extauthz.Reason(d.GetReason()).Fault()
	code, decided := fault.HTTPStatus(codes.OK), "Allowed"
	out["status_id"], out["status"] = ocsfSuccess, "Success"
	if !d.GetAllowed() {
		code, decided = fault.HTTPStatus(answer.Kind), "Denied"
		out["status_id"], out["status"], out["severity_id"], out["severity"] = ocsfFailure, "Failure", ocsfLow, "Low"
	}
	out["status_code"], out["status_detail"] = d.GetReason(), d.GetCause()
	out["message"] = decided + ": " + request.GetMethod() + " " + request.GetHost() + request.GetPath()
	out["actor"] = ocsfActor(d, decided)
	response := object{"message": d.GetReason()}
	if !d.GetAllowed() { // What the service answered is not known here.
		response["code"] = code
	}
	out["api"] = some(object{
		"operation": strings.TrimSpace(request.GetMethod() + " " + d.GetRoute()), "request": object{"uid": orNone(d.GetRequestId())},
		"response": response, "service": some(object{"name": request.GetHost(), "uid": d.GetRoute()}),
	})
	out["src_endpoint"] = object{"ip": request.GetSource()}
	out["http_request"] = some(object{
		"http_method": ocsfMethod(request.GetMethod()), "uid": d.GetRequestId(), "version": request.GetProtocol(),
		"url": some(object{"hostname": request.GetHost(), "path": request.GetPath(), "query_string": request.GetQuery()}),
	})
	out["unmapped"] = some(object{
		"server": d.GetServer(), "authenticator": d.GetAuthenticator(), "rule": d.GetRule(), "method": request.GetMethod(),
		"scopes": d.GetCaller().GetScopes(), "tier": d.GetCaller().GetTier(),
	})
	return some(out)
}

// ocsfActor is who called; OCSF wants at least one of its attributes.
func ocsfActor(d *decisionv1.Decision, decided string) object {
	caller := d.GetCaller()
	authorization := object{"decision": decided}
	if d.GetPolicy() != "" {
		authorization["policy"] = some(object{"name": d.GetPolicy(), "uid": d.GetDigest()})
	}
	user := some(object{"name": caller.GetSubject(), "uid": caller.GetConsumer()})
	if len(user) == 0 {
		user = object{"name": "anonymous"}
	}
	if caller.GetTenant() != "" {
		user["org"] = object{"name": caller.GetTenant()}
	}
	actor := object{"user": user, "authorizations": []object{authorization}}
	if caller.GetIssuer() != "" {
		actor["idp"] = object{"name": caller.GetIssuer()}
	}
	return actor
}

func ocsfActivity(method string) (id int, name string) {
	switch method {
	case "POST":
		return 1, "Create"
	case "GET", "HEAD", "OPTIONS":
		return 2, "Read"
	case "PUT", "PATCH":
		return 3, "Update"
	case "DELETE":
		return 4, "Delete"
	default:
		return ocsfOther, method
	}
}

// ocsfMethod is empty for methods that the schema does not list.
func ocsfMethod(method string) string {
	switch method {
	case "CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "POST", "PUT", "TRACE":
		return method
	default:
		return ""
	}
}

func orNone(text string) string {
	if text == "" {
		return ocsfNoIdentifier
	}
	return text
}

// some leaves out what is empty.
func some(of object) object {
	for name, value := range of {
		switch value := value.(type) {
		case string:
			if value == "" {
				delete(of, name)
			}
		case []string:
			if len(value) == 0 {
				delete(of, name)
			}
		case object:
			if len(value) == 0 {
				delete(of, name)
			}
		}
	}
	return of
}
