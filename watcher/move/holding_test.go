package move

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/watcher/endpoints"
)

// holding is a move whose connections are to wait, as far as the target has come; each
// change makes of it what a test is about.
func holding(changes ...func(*Holding)) func(*View) {
	return func(v *View) {
		metav1.SetMetaDataAnnotation(&v.Migration.ObjectMeta, v1alpha1.AnnotationHoldPorts, "80,8080")
		if v.Pod != nil {
			v.Pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		}
		v.Holding = &Holding{Old: endpoints.Ready, Since: now.Add(-time.Hour),
			At: &v1alpha1.Holding{PodIPs: []string{"10.0.0.9"}, Ports: []v1alpha1.HoldPort{{Port: 80, HoldPort: 61000}, {Port: 8080, HoldPort: 61001}}}}
		for _, change := range changes {
			change(v.Holding)
		}
	}
}

func begun(status metav1.ConditionStatus, reason string, ago time.Duration) func(*View) {
	return func(v *View) {
		meta.SetStatusCondition(&v.Migration.Status.Conditions, metav1.Condition{Type: v1alpha1.ConditionHoldingConnections, Status: status, Reason: reason,
			Message: "m", LastTransitionTime: metav1.NewTime(now.Add(-ago))})
	}
}

func shows(shown endpoints.Shown) func(*Holding) { return func(h *Holding) { h.Shown = shown } }
func isOld(state endpoints.State) func(*Holding) { return func(h *Holding) { h.Old = state } }
func isNew(state endpoints.State) func(*Holding) { return func(h *Holding) { h.New = state } }
func nowhere(h *Holding)                         { h.At = nil }
func just(h *Holding)                            { h.Since = now }
func inTheWay(h *Holding)                        { h.Obstacle = "a policy" }

var (
	holds   = begun(metav1.ConditionTrue, v1alpha1.ReasonHolding, time.Second)
	stopsIt = begun(metav1.ConditionTrue, v1alpha1.ReasonNotHeld, time.Second)
	ended   = begun(metav1.ConditionFalse, v1alpha1.ReasonNotHeld, time.Second)
)

// TestHolding goes through the steps before the stop: connections are led to where they
// wait, or the move goes on without.
func TestHolding(t *testing.T) {
	both := func(v *View) { released(v); claimed(v); reached(prepared, parked)(v) }
	selected := func(v *View) { v.Selected = []string{"app"} }
	asks := func(changes ...func(*Holding)) func(*View) {
		return func(v *View) {
			holding(changes...)(v)
			delete(v.Migration.Annotations, v1alpha1.AnnotationHoldPorts)
			v.Holding.Ports = []int32{80, 8080}
		}
	}
	later := func(v *View) { v.Now = now.Add(targetSays) }
	oldOnes, newOnes := shows(endpoints.ShowsOld), shows(endpoints.ShowsNew)
	alone := isOld(endpoints.Missing)
	for name, tc := range map[string]struct {
		view views
		want Do
		look time.Duration // from now
	}{
		"released: the target is asked":           {view: views{released, asks()}, want: AskToHold},
		"released, something is in the way":       {view: views{released, asks(inTheWay)}, want: Wait},
		"not released":                            {view: views{asks()}, want: Release},
		"asked: the source prepares":              {view: views{released, holding()}, want: Wait},
		"parked, and not said where":              {view: views{both, holding(nowhere), selected}, want: Wait, look: targetSays},
		"parked, and not said where for long":     {view: views{both, holding(nowhere), selected, later}, want: StopHolding},
		"it is said where":                        {view: views{both, holding(), selected}, want: BeginHolding},
		"something is in the way":                 {view: views{both, holding(inTheWay), selected}, want: StopHolding},
		"the pod is not ready":                    {view: views{both, holding(), func(v *View) { v.Pod.Status.Conditions = nil }}, want: StopHolding},
		"its endpoint is not ready":               {view: views{both, holding(isOld(endpoints.Unready))}, want: StopHolding},
		"a port is missing":                       {view: views{both, holding(func(h *Holding) { h.At.Ports = h.At.Ports[1:] })}, want: StopHolding},
		"begun: own slices":                       {view: views{both, holding(), holds, selected}, want: ShowOld},
		"own slices: it leaves its Services":      {view: views{both, holding(oldOnes), holds, selected}, want: LeaveServices},
		"it left, Kubernetes' slices have it yet": {view: views{both, holding(oldOnes), holds}, want: Wait, look: lookAtSlices},
		"own slices are alone":                    {view: views{both, holding(oldOnes, alone, just), holds}, want: Wait, look: lookAtSlices},
		"own slices are alone for long enough":    {view: views{both, holding(oldOnes, alone), holds}, want: ShowNew},
		"some of them lead there":                 {view: views{both, holding(shows(endpoints.ShowsMixed), alone, just), holds}, want: ShowNew},
		"all lead there":                          {view: views{both, holding(newOnes, alone, just), holds}, want: Wait, look: appliedWithin},
		"it is applied":                           {view: views{both, holding(newOnes, alone), holds}, want: Stop},
		"the target does not hold any more":       {view: views{both, holding(newOnes, alone, nowhere), holds}, want: StopHolding},
		"it takes too long":                       {view: views{both, holding(oldOnes), begun(metav1.ConditionTrue, v1alpha1.ReasonHolding, holdingTakes+time.Second)}, want: StopHolding},
		"without: it leaves its Services":         {view: views{both, holding(oldOnes), stopsIt, selected}, want: LeaveServices},
		"without: it is stopped":                  {view: views{both, holding(), ended}, want: Stop},
		"canceled": {view: views{both, holding(newOnes, alone, just), holds, func(v *View) {
			metav1.SetMetaDataAnnotation(&v.Migration.ObjectMeta, v1alpha1.AnnotationCancel, "a mistake")
		}}, want: Withdraw},
	} {
		t.Run(name, func(t *testing.T) {
			v := view(tc.view...)
			step := Next(v)
			if step.Do != tc.want {
				t.Errorf("%s: %s, want %s", step.Do, step.Message, tc.want)
			}
			if tc.look > 0 && !step.Look.Equal(now.Add(tc.look)) {
				t.Errorf("it is looked at again after %s, want %s", step.Look.Sub(now), tc.look)
			}
		})
	}
}

// TestTendHolding: own slices are removed when Kubernetes' are in use again, and as soon
// as nobody waits where they lead; of a move that is given up they lead back first.
func TestTendHolding(t *testing.T) {
	both := func(v *View) { released(v); claimed(v); reached(prepared, parked)(v) }
	stops := func(v *View) { both(v); reached(stopping)(v) }
	runs := func(v *View) { stops(v); stopped(v); gone(v); reached(deleted, isReady)(v) }
	closed := func(result v1alpha1.Result, reason string) func(*View) {
		return func(v *View) { v.Migration.Status.Result, v.Migration.Status.Reason = result, reason }
	}
	restored := closed(v1alpha1.ResultRestored, "")
	withdrawing := func(v *View) { v.Migration.Status.Reason = v1alpha1.ReasonCanceled }
	withdrawn := closed(v1alpha1.ResultWithdrawn, v1alpha1.ReasonCanceled)
	late := func(by time.Duration) func(*View) { return func(v *View) { v.Now = now.Add(by) } }
	mixed, newOnes, oldOnes := shows(endpoints.ShowsMixed), shows(endpoints.ShowsNew), shows(endpoints.ShowsOld)
	missing, back := isOld(endpoints.Missing), isNew(endpoints.Ready)
	for name, tc := range map[string]struct {
		view views
		want Do
	}{
		"nothing was held":                      {views{runs, holding()}, Wait},
		"it has ended":                          {views{runs, holding(newOnes), ended}, Wait},
		"part of the move":                      {views{both, holding(oldOnes), holds}, Wait},
		"it is not possible":                    {views{both, holding(oldOnes), stopsIt}, EndHolding},
		"the pod is being stopped":              {views{stops, holding(newOnes, missing), holds}, Wait},
		"they wait elsewhere":                   {views{stops, holding(mixed, missing), holds}, ShowNew},
		"it runs, its own endpoint is not back": {views{runs, holding(newOnes, missing), holds}, Wait},
		"it is back":                            {views{runs, holding(newOnes, missing, back, just), holds}, Wait},
		"it is back for long enough":            {views{runs, holding(newOnes, missing, back), holds}, EndHolding},
		"closed, it is not back":                {views{runs, restored, holding(newOnes, missing, just), holds}, Wait},
		"closed, it is back":                    {views{runs, restored, holding(newOnes, missing, back), holds}, EndHolding},
		"closed, it does not come back":         {views{runs, restored, holding(newOnes, missing, just), holds, late(holdLonger + 1)}, EndHolding},
		"it does not become ready":              {views{stops, holding(newOnes, missing), holds, late(holdAtMost + 1)}, EndHolding},
		"it has begun anew":                     {views{runs, closed(v1alpha1.ResultColdStarted, ""), holding(newOnes), holds}, EndHolding},
		"nobody waits there any more":           {views{stops, holding(newOnes, missing, nowhere), holds}, EndHolding},
		"the target is lost":                    {views{stops, holding(newOnes, missing), holds, func(v *View) { v.TargetFenced = true }}, EndHolding},
		"the claim is taken back":               {views{stops, holding(newOnes, missing), holds, func(v *View) { v.Migration.Status.Claim = nil }}, EndHolding},
		"the successor is gone":                 {views{stops, holding(newOnes, missing), holds, func(v *View) { v.Successor = nil }}, EndHolding},
		"a watcher removed them, and was lost":  {views{runs, restored, holding(missing, back, just), holds}, EndHolding},
		"somebody has removed them":             {views{stops, holding(missing), holds}, EndHolding},

		"given up, they lead to the successor":      {views{stops, withdrawing, holding(newOnes, missing), holds}, ShowOld},
		"given up, some of them do":                 {views{both, withdrawn, holding(mixed, missing), holds}, ShowOld},
		"given up, they lead to the pod":            {views{both, withdrawing, holding(oldOnes, missing), holds}, Wait},
		"given up, its own endpoint is not back":    {views{both, withdrawn, holding(oldOnes, missing, just), holds}, Wait},
		"given up, its own endpoint is back":        {views{both, withdrawn, holding(oldOnes, just), holds}, Wait},
		"given up, it is back for long enough":      {views{both, withdrawn, holding(oldOnes), holds}, EndHolding},
		"given up, and its endpoint is not ready":   {views{both, withdrawn, holding(oldOnes, isOld(endpoints.Unready), just), holds}, EndHolding},
		"given up, and it does not come back":       {views{both, withdrawn, holding(oldOnes, missing, just), holds, late(holdLonger + 1)}, EndHolding},
		"given up, and the pod is gone":             {views{both, gone, withdrawn, holding(oldOnes, missing), holds}, EndHolding},
		"given up, and the pod is lost":             {views{stops, holding(newOnes, missing), holds, closed(v1alpha1.ResultFailed, v1alpha1.ReasonSourceLost)}, EndHolding},
		"being given up, and the pod is lost":       {views{stops, holding(newOnes, missing), holds, closed("", v1alpha1.ReasonSourceLost)}, EndHolding},
		"given up before there was anything to see": {views{both, withdrawn, holding(), holds}, EndHolding},
	} {
		t.Run(name, func(t *testing.T) {
			step := TendHolding(view(tc.view...))
			if step.Do != tc.want {
				t.Errorf("%s: %s, want %s", step.Do, step.Message, tc.want)
			}
			if name == "a watcher removed them, and was lost" && step.Reason != v1alpha1.ReasonReleased {
				t.Errorf("it is told that they are %s", step.Reason)
			}
		})
	}
}
