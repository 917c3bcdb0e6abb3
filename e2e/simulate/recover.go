package main

import (
	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// recoverNode moves the pods of a fenced node, as the leading watcher does: each
// pod is marked as lost, then the node's record is read once more, and if it still
// says Fenced the pod is deleted, on condition that the mark is still the last
// word on it. Its owner then makes the next one. A mark on a pod of a node that is
// back is taken off.
func (w *world) recoverNode(x *watcher, j int) {
	if w.now >= x.leadsUntil {
		return
	}
	fenced := x.cache[j].State == v1alpha1.FenceFenced
	for p := range w.pods {
		pod := &w.pods[p]
		if pod.node != j || x.busy[p] || !fenced && (!pod.marked || x.cache[j].State != v1alpha1.FenceRunning) {
			continue
		}
		kind := markPod
		if !fenced {
			kind = unmarkPod
		} else if w.broken.checkFirst {
			kind = checkFenced
		}
		w.recoverStep(x, kind, j, p, pod.uid, pod.version)
	}
}

func (w *world) recoverStep(x *watcher, kind callKind, j, p int, uid int32, version int64) {
	x.busy[p] = true
	w.send(call{kind: kind, host: x.host, who: x.index, process: x.process, node: j, pod: p, uid: uid,
		expected: version, deadline: w.now + writeTime})
}

// recoverAnswered takes the answer to one step of a pod's recovery. After any
// failure the controller of fences begins anew.
func (w *world) recoverAnswered(x *watcher, c *call) {
	x.busy[c.pod] = false
	if !c.ok {
		return
	}
	switch {
	case c.kind == markPod && c.won && w.broken.checkFirst:
		w.recoverStep(x, deletePod, c.node, c.pod, c.uid, c.expected)
	case c.kind == markPod && c.won:
		w.recoverStep(x, checkFenced, c.node, c.pod, c.uid, c.expected)
	case c.kind == checkFenced && c.won && w.broken.checkFirst:
		w.recoverStep(x, markPod, c.node, c.pod, c.uid, c.expected)
	case c.kind == checkFenced && c.won:
		w.recoverStep(x, deletePod, c.node, c.pod, c.uid, c.expected)
	case c.kind == checkFenced:
		w.recoverStep(x, unmarkPod, c.node, c.pod, c.uid, c.expected)
	}
}
