package workload

import (
	"testing"
	"time"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

func TestCartAsksForProtectionAndShopperDoesNot(t *testing.T) {
	for name, annotations := range map[string]map[string]string{
		"StatefulSet": StatefulSet("shop").Spec.Template.Annotations,
		"Deployment":  Deployment("shop").Spec.Template.Annotations,
		"pod":         Pod("shop").Annotations,
	} {
		protection, err := v1alpha1.ParseAnnotations(annotations)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if !protection.Protected || protection.Interval != 2*time.Second || protection.Replicas != 1 {
			t.Errorf("%s asks for %+v", name, protection)
		}
	}
	shopper := ShopperPod("shop", "n2")
	if len(shopper.Annotations) != 0 || shopper.Spec.NodeName != "n2" || shopper.Namespace != "shop" {
		t.Errorf("the shopper is %+v", shopper.ObjectMeta)
	}
}
