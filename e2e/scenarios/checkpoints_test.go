package scenarios

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/e2e/cart/workload"
)

// damage finds the newest generation that is complete in a pod's folder, spoils
// bytes in the middle of the last segment that was written for it, and prints the
// generation's number. It prints nothing where the pod has no checkpoint.
const damage = `
cd /var/lib/lifeboat/%[1]s/%[2]s 2>/dev/null || exit 0
newest=$(ls manifests | sort -n | tail -n 1)
test -n "$newest" || exit 0
segment=$(find segments -type f ! -newer "manifests/$newest" -printf '%%T@ %%p\n' | sort -n | tail -n 1 | cut -d ' ' -f 2)
size=$(stat -c %%s "$segment")
printf 'these bytes are not those that were written' | dd of="$segment" bs=1 seek=$((size / 2)) conv=notrunc status=none
sync
echo "${newest%%.man}"
`

func TestDamagedGenerationIsPassedOver(t *testing.T) {
	namespace := scene(t, "damage")
	shop := openShop(t, namespace, workload.StatefulSet(namespace))
	var damaged int64
	shop.AfterCut = func(ctx context.Context, lost *corev1.Pod) error {
		output, err := onEveryNode(ctx, fmt.Sprintf(damage, namespace, lost.UID))
		if err != nil {
			return err
		}
		for _, out := range output {
			number, err := strconv.ParseInt(strings.TrimSpace(out), 10, 64)
			if out == "" {
				continue
			}
			if err != nil {
				return fmt.Errorf("number of the damaged generation: %w", err)
			}
			damaged = max(damaged, number)
		}
		if damaged == 0 {
			return fmt.Errorf("no node holds a checkpoint of pod %s, UID %s", lost.Name, lost.UID)
		}
		return nil
	}
	record := lose(t, shop)
	if err := record.Verdict(); err != nil {
		t.Error(err)
	}
	restore := record.Migration.Status.Restore
	if restore == nil {
		t.Fatal("the Migration does not say what was restored")
	}
	if restore.Generation >= damaged {
		t.Errorf("generation %d came back, though %d is damaged", restore.Generation, damaged)
	}
	isDamaged := func(s v1alpha1.SkippedGeneration) bool { return s.Generation == damaged && s.Reason != "" }
	if !slices.ContainsFunc(restore.Skipped, isDamaged) {
		t.Errorf("the Migration does not say that generation %d was passed over, and why: %+v", damaged, restore.Skipped)
	}
	if message := record.Migration.Status.Message; !strings.Contains(message, strconv.FormatInt(damaged, 10)) {
		t.Errorf("the Migration's message does not name generation %d: %q", damaged, message)
	}
}

func TestColdStartIsNotCalledARestore(t *testing.T) {
	namespace := scene(t, "cold")
	shop := openShop(t, namespace, workload.StatefulSet(namespace))
	shop.AfterCut = func(ctx context.Context, lost *corev1.Pod) error {
		_, err := onEveryNode(ctx, fmt.Sprintf("rm -rf /var/lib/lifeboat/%s/%s", namespace, lost.UID))
		return err
	}
	record := lose(t, shop)
	status := record.Migration.Status
	if status.Result != v1alpha1.ResultColdStarted || status.Reason != v1alpha1.ReasonNoCheckpoint {
		t.Errorf("result %q (%s: %s), want %q (%s)", status.Result, status.Reason, status.Message, v1alpha1.ResultColdStarted, v1alpha1.ReasonNoCheckpoint)
	}
	if status.Message == "" {
		t.Error("the Migration has no message that says what happened")
	}
	if status.RPOSeconds != 0 || status.RPO != "" {
		t.Errorf("RPO %q (%g s), though no state came back", status.RPO, status.RPOSeconds)
	}
	if record.After.Birth == record.Before.Birth {
		t.Error("the same process went on, though its checkpoints were removed")
	}
	if record.Verdict() == nil {
		t.Error("the verdict on a cart that started anew is that it outlived its node")
	}
}
