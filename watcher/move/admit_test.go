package move

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// TestAdmit: what may not be moved is told at once, and what has to wait is told why.
func TestAdmit(t *testing.T) {
	owner := func(kind string) func(*View) { return func(v *View) { v.Pod.OwnerReferences[0].Kind = kind } }
	annotated := func(pairs ...string) func(*View) {
		return func(v *View) {
			for i := 0; i < len(pairs); i += 2 {
				v.Pod.Annotations[pairs[i]] = pairs[i+1]
			}
		}
	}
	plain := func(v *View) {
		v.Pod.Annotations, v.Pod.Spec.RuntimeClassName, v.Pod.Spec.SchedulerName = nil, nil, corev1.DefaultSchedulerName
	}
	hooked := annotated(v1alpha1.AnnotationStateExport, "http 8080/export", v1alpha1.AnnotationStateImport, "http 8080/import")
	volume := func(v *View) {
		v.Pod.Spec.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}}}
	}
	checkpoint := func(status metav1.ConditionStatus) func(*View) {
		return func(v *View) {
			v.Checkpoint = &v1alpha1.Checkpoint{Spec: v1alpha1.CheckpointSpec{PodUID: "old"}, Status: v1alpha1.CheckpointStatus{
				Conditions: []metav1.Condition{{Type: v1alpha1.ConditionCheckpointable, Status: status, Message: "it uses io_uring"}}}}
		}
	}
	budget := func(allowed int32) func(*View) {
		return func(v *View) { v.Budgets = []Budget{{"web", 3}, {"all", allowed}} }
	}
	late := func(v *View) { v.Now = Deadline(v.Migration) }
	spot := func(v *View) { v.Migration.Spec.Reason = v1alpha1.MigrationSpotInterruption }
	sameOwner := func(m *v1alpha1.Migration) { m.Spec.Pod.OwnerUID = "rs" }
	samePod := func(m *v1alpha1.Migration) { m.Spec.Pod.UID = "old" }
	younger := func(m *v1alpha1.Migration) { m.CreationTimestamp = metav1.NewTime(now) }
	failover := func(m *v1alpha1.Migration) { m.Spec.Strategy = v1alpha1.StrategyFailover }
	intoIt := func(m *v1alpha1.Migration) { m.Status.Claim = &v1alpha1.Claim{PodUID: "old", NodeName: "a"} }
	heldFor := func(reason v1alpha1.HeldReason) func(*v1alpha1.Migration) {
		return func(m *v1alpha1.Migration) { m.Status = v1alpha1.MigrationStatus{Held: &v1alpha1.Held{Reason: reason}} }
	}
	many := func(v *View) {
		for _, name := range []string{"m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8"} {
			other(name)(v)
		}
	}

	for name, tc := range map[string]struct {
		view views
		want string
	}{
		"allowed":                         {views{}, "Accept"},
		"a StatefulSet's":                 {views{statefulSet}, "Accept"},
		"with its connections":            {views{annotated(v1alpha1.AnnotationConnections, "keep"), func(v *View) { v.Pod.Status.PodIPs = make([]corev1.PodIP, 1) }}, "Accept"},
		"a bare one":                      {views{bare}, "Accept"},
		"one with a writable volume":      {views{volume}, "Accept"},
		"one that may be checkpointed":    {views{checkpoint(metav1.ConditionTrue)}, "Accept"},
		"an unprotected one is replaced":  {views{by(replace), plain}, "Accept"},
		"one that hands its state over":   {views{by(application), hooked}, "Accept"},
		"to a node":                       {views{to("b")}, "Accept"},
		"it does not exist":               {views{gone}, "Withdraw Withdrawn NotAllowed: does not exist"},
		"another one has its name":        {views{func(v *View) { v.Pod.UID = "another" }}, "Withdraw Withdrawn NotAllowed: does not exist"},
		"it runs elsewhere":               {views{func(v *View) { v.Pod.Spec.NodeName = "c" }}, `Withdraw Withdrawn NotAllowed: runs on node "c" and not on a`},
		"it is being deleted":             {views{func(v *View) { v.Pod.DeletionTimestamp = &metav1.Time{} }}, "Withdraw Withdrawn NotAllowed: is being deleted"},
		"it does not run":                 {views{func(v *View) { v.Pod.Status.Phase = corev1.PodPending }}, "Withdraw Withdrawn NotAllowed: is Pending"},
		"it belongs to its node":          {views{owner("DaemonSet")}, "Withdraw Withdrawn NotAllowed: DaemonSet"},
		"it is static":                    {views{owner("Node")}, "Withdraw Withdrawn NotAllowed: Node"},
		"its owner is another one":        {views{func(v *View) { v.Migration.Spec.Pod.OwnerUID = "theirs" }}, "Withdraw Withdrawn NotAllowed: as spec.pod says"},
		"it is not protected":             {views{plain}, "Withdraw Withdrawn NotAllowed: use strategy Replace"},
		"its annotations are wrong":       {views{annotated(v1alpha1.AnnotationReplicas, "none")}, "Withdraw Withdrawn NotAllowed: lifeboat.dev/replicas"},
		"it was not admitted":             {views{func(v *View) { v.Pod.Spec.RuntimeClassName = nil }}, "Withdraw Withdrawn NotAllowed: admission"},
		"it cannot be checkpointed":       {views{checkpoint(metav1.ConditionFalse)}, "Withdraw Withdrawn NotAllowed: io_uring"},
		"it cannot hand its state over":   {views{by(application)}, "Withdraw Withdrawn NotAllowed: lifeboat.dev/state-export"},
		"with its node's address":         {views{annotated(v1alpha1.AnnotationConnections, "keep"), func(v *View) { v.Pod.Spec.HostNetwork = true }}, "Withdraw Withdrawn NotAllowed: has its node's address"},
		"with two addresses":              {views{annotated(v1alpha1.AnnotationConnections, "keep"), func(v *View) { v.Pod.Status.PodIPs = make([]corev1.PodIP, 2) }}, "Withdraw Withdrawn NotAllowed: more than one address"},
		"one that keeps its name":         {views{by(application), hooked, statefulSet}, "Accept"},
		"a bare one hands it over":        {views{by(application), hooked, bare}, "Accept"},
		"to its own node":                 {views{to("a")}, "Withdraw Withdrawn NotAllowed: node a already"},
		"to no node":                      {views{to("b", func(v *View) { v.Target = nil })}, "Withdraw Withdrawn NotAllowed: does not exist"},
		"to a node that is not Ready":     {views{to("b", func(v *View) { v.Target.Status.Conditions = nil })}, "Withdraw Withdrawn NotAllowed: not Ready"},
		"to a cordoned node":              {views{to("b", func(v *View) { v.Target.Spec.Unschedulable = true })}, "Withdraw Withdrawn NotAllowed: cordoned"},
		"to a fenced node":                {views{to("b", func(v *View) { v.TargetUsable = false })}, "Withdraw Withdrawn NotAllowed: Fence"},
		"an unprotected one to a node":    {views{by(replace), plain, to("b")}, "Withdraw Withdrawn NotAllowed: default-scheduler"},
		"it is moved already":             {views{other("m", samePod)}, "Withdraw Withdrawn NotAllowed: migration m moves the pod already"},
		"it is being recovered":           {views{other("m", samePod, younger, failover)}, "Withdraw Withdrawn NotAllowed: migration m"},
		"it has just come from elsewhere": {views{other("m", intoIt)}, "Withdraw Withdrawn NotAllowed: migration m"},
		"it is asked for again":           {views{other("m", samePod, younger, waits)}, "Accept"},

		"a pod of the same owner moves":          {views{other("m", sameOwner)}, "Hold SameOwner: migration m moves another pod of ReplicaSet web"},
		"one of the same owner waits":            {views{other("m", sameOwner, waits)}, "Accept"},
		"one of the same owner, and a node goes": {views{other("m", sameOwner), spot}, "Accept"},
		"a budget allows it":                     {views{budget(1)}, "Accept"},
		"a budget does not":                      {views{budget(0)}, "Hold DisruptionBudget: PodDisruptionBudget all"},
		"a budget does not, and a node goes":     {views{budget(0), spot}, "Accept"},
		"a budget does not until the deadline":   {views{budget(0), late}, "Withdraw Withdrawn DisruptionBudget: PodDisruptionBudget all"},
		"one moves from its node":                {views{other("m", from("a"))}, "Accept"},
		"two move from its node":                 {views{other("m", from("a")), other("n", from("a"))}, "Hold MoveLimit: 2 pods are being moved from or to node a"},
		"one from and one to its node":           {views{other("m", from("a")), other("n", intoNode("a"))}, "Hold MoveLimit: node a"},
		"two move to its target":                 {views{to("b"), other("m", intoNode("b")), other("n", intoNode("b"))}, "Hold MoveLimit: node b"},
		"many move":                              {views{many}, "Hold MoveLimit: 8 pods are being moved in the cluster"},
		"many move until the deadline":           {views{many, late}, "Withdraw Withdrawn DeadlineExceeded: 8 pods"},
		"two earlier ones wait":                  {views{other("m", from("a"), waits), other("n", from("a"), heldFor(v1alpha1.HeldMoveLimit))}, "Hold MoveLimit: node a"},
		"later ones wait":                        {views{other("m", from("a"), waits, younger), other("n", from("a"), waits, younger)}, "Accept"},
		"two earlier ones wait for budgets":      {views{other("m", from("a"), heldFor(v1alpha1.HeldBudget)), other("n", from("a"), heldFor(v1alpha1.HeldBudget))}, "Accept"},
		"failovers do not count":                 {views{other("m", from("a"), failover), other("n", from("a"), failover)}, "Accept"},
	} {
		t.Run(name, func(t *testing.T) { check(t, Next(view(append(views{fresh}, tc.view...)...)), tc.want) })
	}
}

func intoNode(node string) func(*v1alpha1.Migration) {
	return func(m *v1alpha1.Migration) { m.Status.Claim = &v1alpha1.Claim{PodUID: "else", NodeName: node} }
}
