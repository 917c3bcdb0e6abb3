package agent

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
)

const (
	// firstVerify is how long after its first checkpoint a pod's memory is compared
	// with a generation, and verifyEvery how often after that.
	firstVerify = 30 * time.Second
	verifyEvery = 10 * time.Minute
	// verifyTimeout bounds one comparison.
	verifyTimeout = 5 * time.Minute
)

// verifyDue is whether it is time to compare the pod's memory with what is stored.
func (s *summary) verifyDue(now time.Time) bool {
	if s.verifyAt.IsZero() {
		s.verifyAt = now.Add(firstVerify)
	}
	if now.Before(s.verifyAt) {
		return false
	}
	s.verifyAt = now.Add(verifyEvery)
	return true
}

// verify compares a pod's memory with a generation. Checkpoints take what was not
// written as unchanged; were that ever wrong, a restore would be of memory that
// never was, and nobody would notice. So it is looked for, while the pod runs.
func (a *Agent) verify(ctx context.Context, state podState, generation int64) {
	ctx, cancel := context.WithTimeout(ctx, verifyTimeout)
	defer cancel()
	pod := state.pod
	log := a.log.With("pod", pod.Namespace+"/"+pod.Name, "generation", generation)
	reader, err := a.store.OpenReader(ctx, store.Key{Namespace: pod.Namespace, PodUID: string(pod.UID)}, generation, nil)
	if err != nil {
		log.Warn("generation was not compared with the pod's memory", "err", err)
		return
	}
	defer reader.Close()
	result, err := a.engine.Verify(ctx, string(pod.UID), generation, reader)
	if err != nil {
		log.Warn("generation was not compared with the pod's memory", "err", err)
		return
	}
	a.metrics.verifiedBytes.WithLabelValues(pod.Namespace).Add(float64(result.Bytes))
	if len(result.Wrong) == 0 {
		log.Debug("generation compared with the pod's memory", "bytes", result.Bytes)
		return
	}
	a.metrics.wrongGenerations.WithLabelValues(pod.Namespace).Inc()
	log.Error("generation is not what the pod's memory was; from now on all memory is read for each checkpoint", "wrong", result.Wrong)
	a.recorder.Event(pod, corev1.EventTypeWarning, "LifeboatCheckpointWrong", fmt.Sprintf(
		"generation %d differs from the pod's memory, first at %v, though nothing was seen to write there; from now on all memory is read for each checkpoint, which takes longer", generation, result.Wrong[0]))
}
