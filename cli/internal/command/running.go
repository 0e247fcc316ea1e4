package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	adminv1 "weir.dev/api/gen/weir/admin/v1"
	"weir.dev/cli/internal/call"
	"weir.dev/cli/internal/stack"
	"weir.dev/policy"
)

// askTimeout bounds one question to the control plane.
const askTimeout = 30 * time.Second

// ask calls the running control plane's admin API.
func (a *App) ask(ctx context.Context, timeout time.Duration, question func(context.Context, adminv1.AdminServiceClient) error) error {
	dir, err := a.state()
	if err != nil {
		return err
	}
	record, running, err := currentRecord(dir)
	if err != nil {
		return err
	}
	if !running || len(record.Components) == 0 {
		return fmt.Errorf("weir is not running; start it with %s up, or name policy folders to work without it", a.self())
	}
	client, conn, err := stack.Admin(dir, record)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	err = question(ctx, client)
	if status.Code(err) == codes.OK {
		return err
	}
	return errors.New("the control plane: " + call.Explain(err))
}

// fromMessage fills a value from a message of the same JSON.
func fromMessage(message proto.Message, value any) error {
	raw, err := protojson.Marshal(message)
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, value)
}

// askExplanation has the running control plane explain.
func (a *App) askExplanation(ctx context.Context, q policy.Question) (*policy.Explanation, error) {
	request := &adminv1.ExplainRequest{
		Scheme: q.Scheme, Method: q.Method, Host: q.Host, Path: q.Path, Sni: q.SNI, Port: q.Port, Fleet: q.Fleet,
	}
	for _, header := range q.Headers {
		request.Headers = append(request.Headers, &adminv1.Header{Name: header.Name, Value: header.Value})
	}
	explanation := &policy.Explanation{}
	return explanation, a.ask(ctx, askTimeout, func(ctx context.Context, client adminv1.AdminServiceClient) error {
		answer, err := client.Explain(ctx, request)
		if err != nil {
			return err
		}
		return fromMessage(answer, explanation)
	})
}

// askPlan fetches the running Plan.
func (a *App) askPlan(ctx context.Context) (plan *policy.Plan, err error) {
	err = a.ask(ctx, askTimeout, func(ctx context.Context, client adminv1.AdminServiceClient) error {
		answer, err := client.GetPlan(ctx, &adminv1.GetPlanRequest{})
		if err != nil {
			return err
		}
		plan, err = policy.DecodePlan(answer.GetContent())
		return err
	})
	return plan, err
}

// askDiff has the running control plane compare itself with documents.
func (a *App) askDiff(ctx context.Context, request *adminv1.DiffRequest) (*difference, error) {
	found := &difference{}
	return found, a.ask(ctx, 2*askTimeout, func(ctx context.Context, client adminv1.AdminServiceClient) error {
		answer, err := client.Diff(ctx, request)
		if err != nil {
			return err
		}
		return fromMessage(answer, found)
	})
}

// documents reads the policy files of paths as they are.
func documents(paths []string) ([]*adminv1.Document, error) {
	found, err := load(paths, true)
	if err != nil {
		return nil, err
	}
	var files []string
	add := func(file string) {
		if file != "" && !slices.Contains(files, file) {
			files = append(files, file)
		}
	}
	for _, object := range found.objects {
		add(object.File)
	}
	for _, problem := range found.problems {
		add(problem.File)
	}
	slices.Sort(files)
	var out []*adminv1.Document
	total := 0
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		if total += len(content); total > stack.MaxPolicyBytes {
			return nil, fmt.Errorf("the policy has more than %d MiB", stack.MaxPolicyBytes>>20)
		}
		out = append(out, &adminv1.Document{File: file, Content: string(content)})
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("there is no policy in %v", paths)
	}
	return out, nil
}
