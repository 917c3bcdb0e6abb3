package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// auditPolicy has the API server note each request of one user, once it is answered;
// a watch is noted when it begins.
func auditPolicy(user string) []byte {
	return fmt.Appendf(nil, `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - {level: Metadata, users: [%q]}
  - {level: None}
`, user)
}

// auditLog is the file of an API server's audit log.
type auditLog string

// request is one answered request.
type request struct {
	verb, resource string // as "patch", "migrations/status"
	at             time.Time
}

func (r request) String() string { return r.verb + " " + r.resource }

// position is how long the log is now. The API server writes an entry before it
// answers.
func (l auditLog) position() (int64, error) {
	info, err := os.Stat(string(l))
	if os.IsNotExist(err) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// noteTime is how long the API server may take to note a request of which a watch has told.
const noteTime = 10 * time.Second

// await is since, once a request was noted so often, or should have been: a watch may tell
// of what it did before it is answered.
func (l auditLog) await(ctx context.Context, position int64, what string, count int) ([]request, error) {
	ctx, cancel := context.WithTimeout(ctx, noteTime)
	defer cancel()
	for {
		requests, err := l.since(position)
		if err != nil || ctx.Err() != nil || counts(requests)[what] >= count {
			return requests, err
		}
		select {
		case <-ctx.Done():
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// since are the requests that were noted after a position.
func (l auditLog) since(position int64) ([]request, error) {
	file, err := os.Open(string(l))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if _, err := file.Seek(position, io.SeekStart); err != nil {
		return nil, err
	}
	content, err := io.ReadAll(file)
	if err != nil {
		return nil, err
	}
	var requests []request
	for line := range bytes.Lines(content) {
		if !bytes.HasSuffix(line, []byte("\n")) {
			break // it is being written
		}
		var entry struct {
			Stage, Verb, RequestURI string
			ObjectRef               struct{ Resource, Subresource string }
			StageTimestamp          time.Time
		}
		if err := json.Unmarshal(line, &entry); err != nil {
			return nil, fmt.Errorf("read the audit log: %w", err)
		}
		// A watch has two entries: when it begins and when it ends.
		if entry.Verb == "watch" && entry.Stage == "ResponseComplete" {
			continue
		}
		resource := entry.ObjectRef.Resource
		if resource == "" {
			resource, _, _ = strings.Cut(entry.RequestURI, "?")
		}
		if sub := entry.ObjectRef.Subresource; sub != "" {
			resource += "/" + sub
		}
		requests = append(requests, request{entry.Verb, resource, entry.StageTimestamp})
	}
	return requests, nil
}

// counts adds requests up by what they ask for.
func counts(requests []request) map[string]int {
	n := map[string]int{}
	for _, r := range requests {
		n[r.String()]++
	}
	return n
}
