package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/client-go/kubernetes"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/e2e/observe"
	"github.com/lifeboat-dev/lifeboat/e2e/witness"
	"github.com/lifeboat-dev/lifeboat/e2e/witness/workload"
)

// conclude reads what is left of the scenario and has it judged.
func (s *stage) conclude(ctx context.Context, r *result) error {
	to := time.Now()
	if err := s.logs.end(); err != nil {
		return err
	}
	migrations, err := s.migrations(ctx)
	if err != nil {
		return err
	}
	var late time.Duration
	for _, name := range steppers {
		h := witness.History{Workload: workload.Name(s.namespace, name), From: s.from, To: to}
		if h.Copies, err = s.logs.copies(h.Workload, name+"-"); err != nil {
			return err
		}
		h.Seen = s.witness.Seen(h.Workload)
		for _, m := range migrations {
			if !strings.HasPrefix(m.Spec.Pod.Name, name+"-") {
				continue
			}
			switch m.Status.Result {
			case v1alpha1.ResultRestored, v1alpha1.ResultColdStarted:
				h.Moves = append(h.Moves, moveOf(&m))
			case v1alpha1.ResultFailed:
				r.failed = append(r.failed, failure{m.Name, m.Status.Reason, m.Status.Message})
			}
		}
		if !s.from.IsZero() { // else it never ran
			verdict := witness.Judge(h)
			r.verdicts = append(r.verdicts, verdict)
			late = max(late, verdict.Late)
			for _, v := range verdict.Violations {
				r.logs = append(r.logs, fmt.Sprintf("%s: %s; steps around:", h.Workload, v))
				r.logs = append(r.logs, h.Around(v.At)...)
			}
		}
		r.moves = append(r.moves, h.Moves...)
	}
	if err := s.concludeRedis(ctx, r, migrations); err != nil {
		r.err = errors.Join(r.err, err)
	}
	if late > witness.StepEvery {
		r.notes = append(r.notes, fmt.Sprintf("the old copy was still heard %s after the last sign of life that Lifeboat knows of", seconds(late)))
	}
	return nil
}

// describe writes the state of everything into a file of the scenario's name among the
// cluster's logs, and says of the result what the Migrations say.
func (s *stage) describe(ctx context.Context, r *result) error {
	migrations, err := s.migrations(ctx)
	if err != nil {
		return err
	}
	for _, m := range migrations {
		r.logs = append(r.logs, fmt.Sprintf("Migration %s from %s: phase %s, result %q %s: %s", m.Name, m.Spec.SourceNode, m.Status.Phase, m.Status.Result, m.Status.Reason, m.Status.Message))
		for _, p := range m.Status.Phases {
			r.logs = append(r.logs, fmt.Sprintf("  %s at %s, %s after the loss", p.Phase, p.At.Format(timeOfDay), seconds(p.At.Sub(m.Spec.LostAt.Time))))
		}
	}
	config, err := s.cluster.RESTConfig()
	if err != nil {
		return err
	}
	logs, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("describe the cluster: %w", err)
	}
	path := filepath.Join(s.cluster.Logs(), r.scenario.name+".txt")
	file, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("describe the cluster: %w", err)
	}
	observe.Dump(ctx, file, s.api, logs, s.namespace)
	r.logs = append(r.logs, "more in "+path+", which moves beside the clusters' folder when the cluster stops")
	return file.Close()
}

// timeOfDay is how moments are printed, to be compared with logs.
const timeOfDay = "15:04:05.000"

// concludeRedis looks whether redis is the process that it was, unless it is reported to
// have started anew, and whether it has forgotten more than its checkpoint lacks.
func (s *stage) concludeRedis(ctx context.Context, r *result, migrations []v1alpha1.Migration) error {
	if s.runID == "" {
		return nil
	}
	answers := s.counter.end()
	var moves []witness.Move
	anew := false
	for _, m := range migrations {
		if !strings.HasPrefix(m.Spec.Pod.Name, redisName+"-") {
			continue
		}
		switch m.Status.Result {
		case v1alpha1.ResultRestored, v1alpha1.ResultColdStarted:
			moves = append(moves, moveOf(&m))
			anew = anew || m.Status.Result == v1alpha1.ResultColdStarted
		case v1alpha1.ResultFailed:
			r.failed = append(r.failed, failure{m.Name, m.Status.Reason, m.Status.Message})
		}
	}
	r.moves = append(r.moves, moves...)
	id, err := s.counter.runID(ctx)
	if err != nil {
		return fmt.Errorf("ask redis at the end: %w", err)
	}
	if id == s.runID == anew {
		return fmt.Errorf("redis is the process %.8s and was %.8s; reported to have started anew: %t", id, s.runID, anew)
	}
	return judgeCounts(answers, moves)
}

func moveOf(m *v1alpha1.Migration) witness.Move {
	move := witness.Move{
		Migration: m.Name, Pod: string(m.Spec.Pod.UID), Restored: m.Status.Result == v1alpha1.ResultRestored,
		LostAt: m.Spec.LostAt.Time, RTO: fromSeconds(m.Status.RTOSeconds), RPO: fromSeconds(m.Status.RPOSeconds),
	}
	if m.Status.Claim != nil {
		move.Successor = string(m.Status.Claim.PodUID)
	}
	if m.Status.Restore != nil && m.Status.Restore.TakenAt != nil {
		move.TakenAt = m.Status.Restore.TakenAt.Time
	}
	return move
}

func fromSeconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
