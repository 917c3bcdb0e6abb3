package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// summary says how the load and the pods do.
type summary struct {
	begin time.Time
	// last is how busy the machine was until the last line, all until the beginning.
	last, all usage
	// first and newest are each pod's generation at the beginning and now.
	first, newest map[string]int64
	// before is the machine's load before this one.
	before string
}

func newSummary(begin time.Time) *summary {
	s := &summary{begin: begin, before: loadAverage()}
	s.last.read()
	s.all.read()
	return s
}

// line says in one line what was seen until now.
func (s *summary) line(ctx context.Context, o *observer) string {
	// Without it, the counts are those of the line before.
	if err := errors.Join(o.counters(ctx), o.readFreezes(ctx)); err != nil {
		o.missed(ctx)
	}
	s.generations(ctx, o)
	o.mu.Lock()
	defer o.mu.Unlock()
	return fmt.Sprintf("%5.0f s  load %s, processors %.0f %%, waiting for disk %s %%, for memory %s %%; %s; longest standstill %s; checkpoints %s",
		time.Since(s.begin).Seconds(), loadAverage(), s.last.read(), pressure("io"), pressure("memory"),
		o.counts(), o.standstills(), s.checkpoints())
}

// generations reads which generation of each pod is durable.
func (s *summary) generations(ctx context.Context, o *observer) {
	var checkpoints v1alpha1.CheckpointList
	if err := o.api.List(ctx, &checkpoints, client.InNamespace(namespace)); err != nil {
		o.missed(ctx)
		return
	}
	s.newest = map[string]int64{}
	for _, c := range checkpoints.Items {
		s.newest[c.Name] = c.Status.Generation
	}
	if s.first == nil {
		s.first = s.newest
	}
}

// checkpoints says how many checkpoints became durable under load.
func (s *summary) checkpoints() string {
	var each []string
	for _, name := range slices.Sorted(maps.Keys(s.newest)) {
		each = append(each, fmt.Sprintf("%s %d", name, s.newest[name]-s.first[name]))
	}
	return strings.Join(each, ", ")
}

// counts says what was counted.
func (t *tally) counts() string {
	return fmt.Sprintf("%d declared lost, %d refuted, %d fenced, %.0f freezes%s, %d recoveries held for a while, %d begun, %d restarts, %d leads lost",
		t.declared, t.refuted, t.fenced, t.froze, t.longestFreeze(), t.came(held)+t.came(withdrawn), t.came(begun), len(t.restarts), t.leads)
}

// longestFreeze says how long the longest freeze was, if there was any.
func (t *tally) longestFreeze() string {
	longest := time.Duration(0)
	for _, length := range t.frozen {
		longest = max(longest, length)
	}
	if longest == 0 {
		return ""
	}
	return fmt.Sprintf(" of at most %.2f s", longest.Seconds())
}

// standstills says how long each pod has stood still at most.
func (t *tally) standstills() string {
	return fmt.Sprintf("%s %.2f s, %s %.2f s", cartName, t.standstill[cartName].Seconds(), redisName, t.standstill[redisName].Seconds())
}

// outcome says what the whole run has shown.
func (o *observer) outcome(s *summary, took, limit time.Duration) (text string, verdict error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	verdict = o.verdict(limit)
	word := "passed"
	if verdict != nil {
		word = "FAILED"
	}
	var out strings.Builder
	fmt.Fprintf(&out, "\n%s after %s under load: processors %.0f %% busy, load %s (%s before).\n",
		word, took.Round(time.Second), s.all.read(), loadAverage(), s.before)
	fmt.Fprintf(&out, "  %s; a freeze may take %s\n", o.counts(), limit)
	fmt.Fprintf(&out, "  longest standstill as the clients saw it: %s\n", o.standstills())
	fmt.Fprintf(&out, "  answers: %s %d, %s %d\n", cartName, o.answers[cartName], redisName, o.answers[redisName])
	fmt.Fprintf(&out, "  checkpoints that became durable: %s\n", s.checkpoints())
	fmt.Fprintf(&out, "  Kubernetes itself took a node for lost %d times\n", o.notReady)
	if o.blind > 0 {
		fmt.Fprintf(&out, "  %d looks at the cluster failed\n", o.blind)
	}
	return out.String(), verdict
}

// loadAverage is the machine's load of the last minute.
func loadAverage() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "?"
	}
	first, _, _ := strings.Cut(string(text), " ")
	return first
}
