package move

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

const (
	live        = v1alpha1.StrategyLive
	cold        = v1alpha1.StrategyCold
	replace     = v1alpha1.StrategyReplace
	application = v1alpha1.StrategyApplication

	accepted = v1alpha1.PhaseAccepted
	prepared = v1alpha1.PhasePrepared
	parked   = v1alpha1.PhaseParked
	stopping = v1alpha1.PhaseStopping
	isReady  = v1alpha1.PhaseReady
	deleted  = v1alpha1.PhaseDeleted
)

type views = []func(*View)

// TestNext goes through the steps of each strategy and kind of owner.
func TestNext(t *testing.T) {
	failed := source(v1alpha1.SourceStatus{Error: "no room"})
	exported := v1alpha1.HookResult{Name: hookExport, Succeeded: true}
	imported := v1alpha1.HookResult{Name: hookImport, Succeeded: true}
	refused := v1alpha1.HookResult{Name: hookImport, Output: "wrong version"}
	manifest := func(v *View) { v.Migration.Annotations = map[string]string{AnnotationManifest: "{}"} }
	selected := func(v *View) { v.Selected = []string{"app"} }
	cancel := func(v *View) { v.Migration.Annotations = map[string]string{v1alpha1.AnnotationCancel: "a mistake"} }
	late := func(v *View) { v.Now = Deadline(v.Migration) }
	muchLater := func(v *View) { v.Now = now.Add(readyDeadline) }
	fenced := func(v *View) { v.SourceFenced = true }
	superseded := func(v *View) { v.Superseded = true }
	began := source(v1alpha1.SourceStatus{BeganAt: micro(now)})
	deleting := func(v *View) { v.Pod.DeletionTimestamp = &metav1.Time{Time: now} }
	ended := func(v *View) { v.Pod.Status.Phase = corev1.PodSucceeded }
	unready := func(v *View) { v.Successor.Status.Conditions = nil }
	noClaim := func(v *View) { v.Migration.Status.Claim = nil }
	withReason := func(reason string) func(*View) { return func(v *View) { v.Migration.Status.Reason = reason } }

	for name, tc := range map[string]struct {
		view views
		want string // the step, the result and reason of those that end, and part of the message
	}{
		"live: it is released first":                  {views{}, "Release"},
		"live: noted, but not released":               {views{released, func(v *View) { v.Pod.Labels[labelHash] = "h" }}, "Release"},
		"live: the source prepares":                   {views{released}, "Wait"},
		"live: the successor is not parked":           {views{released, claimed, reached(prepared)}, "Wait"},
		"live: parked, but the source prepares yet":   {views{released, claimed, reached(parked)}, "Wait"},
		"live: both are ready, Services select it":    {views{released, claimed, reached(prepared, parked), selected}, "LeaveServices"},
		"live: both are ready":                        {views{released, claimed, reached(prepared, parked)}, "Stop"},
		"live: the source stops it":                   {views{released, claimed, reached(prepared, parked, stopping)}, "Wait"},
		"its source does not begin to stop it":        {views{released, claimed, reached(prepared, parked, stopping), muchLater}, "Withdraw Withdrawn SourceFailed: node a has not begun to stop the pod"},
		"its source has begun, and then stays silent": {views{released, claimed, reached(prepared, parked, stopping), began, muchLater}, "Tell: began to stop the pod"},
		"its source has begun":                        {views{released, claimed, reached(prepared, parked, stopping), began}, "Wait"},
		"it began too late, and it is given up":       {views{released, reached(stopping), began, withReason("SourceFailed")}, "Withdraw Withdrawn SourceFailed"},
		"live: the source has stopped it":             {views{released, claimed, reached(prepared, parked, stopping), stopped}, "NoteStopped"},
		"live: it is to go":                           {views{released, claimed, reached(stopping, v1alpha1.PhaseStopped), stopped}, "Remove"},
		"live: it is gone":                            {views{released, claimed, reached(stopping, v1alpha1.PhaseStopped, deleted), stopped, gone}, "Follow"},
		"live, its name is kept: the source prepares": {views{statefulSet}, "Wait"},
		"live, its name is kept: prepared":            {views{statefulSet, reached(prepared)}, "Stop"},
		"live, bare: its manifest is kept":            {views{bare, reached(prepared)}, "Keep"},
		"live, bare: kept":                            {views{bare, reached(prepared), manifest}, "Stop"},
		"cold: nothing is before the stop":            {views{by(cold)}, "Stop"},
		"cold, bare: its manifest is kept":            {views{by(cold), bare}, "Keep"},

		"replace: its siblings are noted first":      {views{by(replace)}, "Keep"},
		"replace: it is released then":               {views{by(replace), noted}, "Release"},
		"replace: no successor yet":                  {views{by(replace), released}, "Wait"},
		"replace: the successor has a node":          {views{by(replace), released, claimed, noClaim}, "Claim"},
		"replace: the successor is not Ready":        {views{by(replace), released, claimed, unready}, "Wait"},
		"replace: it was Ready, and is not any more": {views{by(replace), released, claimed, reached(isReady), unready}, "Wait"},
		"replace: the successor serves":              {views{by(replace), released, claimed, reached(isReady), selected}, "LeaveServices"},
		"replace: the old one is to end":             {views{by(replace), released, claimed, reached(isReady)}, "Stop"},
		"replace: it ends":                           {views{by(replace), released, claimed, reached(isReady, stopping)}, "Delete"},
		"replace: it has ended":                      {views{by(replace), released, claimed, reached(isReady, stopping, deleted), gone}, "Close Replaced : pod web-2 on node b has taken the pod's place"},
		"replace, its name is kept":                  {views{by(replace), statefulSet}, "Stop"},
		"replace, its name is kept: it has ended":    {views{by(replace), statefulSet, reached(stopping, deleted), gone}, "Wait"},
		"replace, its name is kept: nobody comes":    {views{by(replace), statefulSet, reached(stopping, deleted), gone, muchLater}, "Close Failed NotReady: no pod was created"},
		"replace, its name is kept: the next one":    {views{by(replace), statefulSet, reached(stopping, deleted), claimed, noClaim}, "Claim"},
		"replace, its name is kept: Ready":           {views{by(replace), statefulSet, reached(stopping, deleted, isReady), claimed}, "Close Replaced : web-2"},
		"replace, bare: its manifest is kept":        {views{by(replace), bare}, "Keep"},
		"replace, bare: it has ended":                {views{by(replace), bare, manifest, reached(stopping, deleted), gone}, "Recreate"},

		"application: the state is to be handed over":    {views{by(application), released, claimed, reached(isReady)}, "Wait"},
		"application: exported alone":                    {views{by(application), released, claimed, reached(isReady), hooks(exported)}, "Wait"},
		"application: imported":                          {views{by(application), released, claimed, reached(isReady), hooks(exported, imported)}, "Stop"},
		"application: not imported":                      {views{by(application), released, claimed, reached(isReady), hooks(exported, refused)}, "Withdraw Withdrawn ImportFailed: wrong version"},
		"application, its name is kept: stopped first":   {views{by(application), statefulSet}, "Stop"},
		"application, bare: its manifest is kept":        {views{by(application), bare}, "Keep"},
		"application, bare: kept":                        {views{by(application), bare, manifest}, "Stop"},
		"application, its name is kept: it is stopped":   {views{by(application), statefulSet, reached(stopping), began}, "Wait"},
		"application, its name is kept: cannot":          {views{by(application), statefulSet, reached(stopping), failed}, "Withdraw Withdrawn SourceFailed: no room"},
		"application, its name is kept: stopped":         {views{by(application), statefulSet, reached(stopping), stopped}, "NoteStopped"},
		"application, its name is kept: to go":           {views{by(application), statefulSet, reached(stopping, v1alpha1.PhaseStopped), stopped}, "Remove"},
		"application, its name is kept: gone":            {views{by(application), statefulSet, reached(stopping, v1alpha1.PhaseStopped, deleted), stopped, gone}, "Follow"},
		"application, its name is kept: source lost":     {views{by(application), statefulSet, reached(stopping), began, fenced}, "Withdraw Failed SourceLost: node a"},
		"application, its name is kept: lost after that": {views{by(application), statefulSet, reached(stopping), stopped, fenced}, "NoteStopped"},
		"application, its name is kept: silent":          {views{by(application), statefulSet, reached(stopping), began, muchLater}, "Tell: began to stop the pod"},
		"application, its name is kept: canceled":        {views{by(application), statefulSet, cancel}, "Withdraw Withdrawn Canceled: a mistake"},

		"application: done": {views{by(application), released, claimed, reached(isReady, stopping, deleted), gone}, "Close Imported : web-2"},

		"canceled":                               {views{cancel}, "Withdraw Withdrawn Canceled: a mistake"},
		"canceled before it began":               {views{fresh, cancel}, "Withdraw Withdrawn Canceled: a mistake"},
		"canceled too late":                      {views{reached(prepared, parked, stopping), cancel}, "Wait"},
		"late, not prepared":                     {views{released, late}, "Withdraw Withdrawn DeadlineExceeded: node a has not prepared"},
		"late, not parked":                       {views{released, reached(prepared), claimed, late}, "Withdraw Withdrawn DeadlineExceeded: web-2 on node b is not ready"},
		"late, but it is being stopped":          {views{released, claimed, reached(stopping), began, late}, "Tell: began to stop the pod"},
		"the source cannot prepare it":           {views{released, failed}, "Withdraw Withdrawn SourceFailed: no room"},
		"the source cannot stop it":              {views{released, reached(stopping), failed}, "Withdraw Withdrawn SourceFailed: no room"},
		"it is deleted, so it cannot be stopped": {views{released, reached(stopping), failed, func(v *View) { v.Pod.DeletionTimestamp = &metav1.Time{Time: now} }}, "Withdraw Withdrawn NotAllowed: no room"},
		"the successor was deleted":              {views{released, claimed, func(v *View) { v.Successor = nil }}, "Withdraw Withdrawn TargetFailed: pod web-2 on node b"},
		"the successor failed":                   {views{released, claimed, func(v *View) { v.Successor.Status.Phase = corev1.PodFailed }}, "Withdraw Withdrawn TargetFailed: failed"},
		"the target is lost":                     {views{released, claimed, func(v *View) { v.TargetFenced = true }}, "Withdraw Withdrawn TargetFailed: node b"},
		"the target is lost after the stop":      {views{released, claimed, reached(stopping), stopped, func(v *View) { v.TargetFenced = true }}, "NoteStopped"},
		"somebody deletes it":                    {views{released, deleting}, "Withdraw Withdrawn NotAllowed: deleted"},
		"it is gone":                             {views{released, gone}, "Withdraw Withdrawn NotAllowed: deleted"},
		"it has ended by itself":                 {views{released, ended}, "Withdraw Withdrawn NotAllowed: Succeeded"},
		"it is gone while it is stopped":         {views{released, reached(stopping), gone}, "Wait"},
		"and its source stays silent":            {views{released, reached(stopping), gone, muchLater}, "Withdraw Withdrawn SourceFailed: does not say"},
		"the source is lost before the move":     {views{fresh, fenced}, "Withdraw Failed SourceLost: node a"},
		"the source is lost before the stop":     {views{released, claimed, fenced}, "Withdraw Failed SourceLost: node a"},
		"the source is lost during the stop":     {views{reached(stopping), fenced}, "Withdraw Failed SourceLost: node a"},
		"the source is lost after the stop":      {views{reached(stopping), stopped, fenced}, "NoteStopped"},
		"a failover was quicker":                 {views{reached(stopping), stopped, superseded}, "Withdraw Failed SourceLost: node a"},
		"its node is lost, its successor serves": {views{by(replace), released, claimed, reached(isReady, stopping), fenced}, "Delete"},
		"it is being withdrawn":                  {views{released, withReason("Canceled")}, "Withdraw Withdrawn Canceled"},
		"it is being withdrawn, its source lost": {views{released, withReason("SourceLost")}, "Withdraw Failed SourceLost"},
		"it is being withdrawn after its stop":   {views{released, reached(stopping), failed, withReason("SourceFailed")}, "Withdraw Withdrawn SourceFailed"},
	} {
		t.Run(name, func(t *testing.T) { check(t, Next(view(tc.view...)), tc.want) })
	}
}

// check compares a step with "Do", or "Do Result Reason: part of the message".
func check(t *testing.T, step Step, want string) {
	t.Helper()
	head, text, _ := strings.Cut(want, ": ")
	got := string(step.Do)
	if step.Result != "" {
		got += " " + string(step.Result) + " " + step.Reason
	} else if step.Held != "" {
		got += " " + string(step.Held)
	}
	if strings.TrimSpace(got) != strings.TrimSpace(head) || !strings.Contains(step.Message, text) {
		t.Errorf("next is %q: %s\n   want %q: %s", got, step.Message, head, text)
	}
	if step.Do == Hold && !step.Look.After(now) {
		t.Errorf("it is held, and nobody looks again")
	}
}

func TestDeadlineOfAMoveThatHasNone(t *testing.T) {
	m := view().Migration
	m.Spec.DeadlineSeconds = 0
	if got := Deadline(m); !got.Equal(begin.Add(v1alpha1.DefaultDeadline)) {
		t.Errorf("the deadline is %s", got)
	}
	m.Spec.DeadlineSeconds = 30
	if got := Deadline(m); !got.Equal(begin.Add(30 * time.Second)) {
		t.Errorf("the deadline is %s", got)
	}
}
