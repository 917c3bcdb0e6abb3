package httpapi

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// Pause is whether recoveries are paused.
type Pause struct {
	Paused bool   `json:"paused" doc:"While it is true no node is declared lost, and no pod recovered"`
	Reason string `json:"reason,omitempty" doc:"Why they are paused"`
	Error  string `json:"error,omitempty" doc:"What is wrong with the ConfigMap that says so. Nothing is paused then"`
}

type pauseOutput struct{ Body Pause }

type pauseInput struct {
	Body struct {
		_      struct{} `additionalProperties:"false"`
		Reason string   `json:"reason" minLength:"1" maxLength:"500" doc:"Whoever looks into it later reads this" example:"switches of rack 4 are exchanged"`
	}
}

func (s *service) getPause(ctx context.Context, _ *struct{}) (*pauseOutput, error) {
	config := &corev1.ConfigMap{}
	err := s.Client.Get(ctx, s.configKey(), config)
	if client.IgnoreNotFound(err) != nil {
		return nil, unavailable("read whether recoveries are paused", err)
	}
	reason, err := v1alpha1.ParseRecoveries(config.Data[v1alpha1.ConfigRecoveries])
	view := Pause{Paused: reason != "", Reason: reason}
	if err != nil {
		view.Error = err.Error()
	}
	return &pauseOutput{Body: view}, nil
}

func (s *service) putPause(ctx context.Context, in *pauseInput) (*pauseOutput, error) {
	value := v1alpha1.PausedRecoveries(in.Body.Reason)
	if err := s.setRecoveries(ctx, &value); err != nil {
		return nil, unavailable("pause recoveries", err)
	}
	s.Log.Info("recoveries were paused through the API", "user", callerOf(ctx).Username, "reason", in.Body.Reason)
	return s.getPause(ctx, nil)
}

func (s *service) deletePause(ctx context.Context, _ *struct{}) (*pauseOutput, error) {
	if err := s.setRecoveries(ctx, nil); client.IgnoreNotFound(err) != nil {
		return nil, unavailable("resume recoveries", err)
	}
	s.Log.Info("recoveries were resumed through the API", "user", callerOf(ctx).Username)
	return s.getPause(ctx, nil)
}

// setRecoveries writes the key that pauses recoveries, or removes it. What else the
// ConfigMap has stays.
func (s *service) setRecoveries(ctx context.Context, value *string) error {
	patch, err := json.Marshal(map[string]any{"data": map[string]any{v1alpha1.ConfigRecoveries: value}})
	if err != nil {
		return err
	}
	key := s.configKey()
	config := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}}
	err = s.Client.Patch(ctx, config, client.RawPatch(types.MergePatchType, patch), fieldOwner)
	if !apierrors.IsNotFound(err) || value == nil {
		return err
	}
	config.Data = map[string]string{v1alpha1.ConfigRecoveries: *value}
	return s.Client.Create(ctx, config, fieldOwner)
}

func (s *service) configKey() client.ObjectKey {
	return client.ObjectKey{Namespace: s.Namespace, Name: v1alpha1.ConfigName}
}

func (s *service) registerPause(api huma.API) {
	// Who may change the ConfigMap by which kubectl lifeboat pause works.
	need := func(verb string) permission {
		return permission{verb: verb, resource: "configmaps", inNamespace: s.Namespace, named: v1alpha1.ConfigName}
	}
	register(api, operation{id: "get-pause", method: http.MethodGet, path: "/pause", tag: "Pause", summary: "Say whether recoveries are paused", need: need("get")}, s.getPause)
	register(api, operation{id: "put-pause", method: http.MethodPut, path: "/pause", tag: "Pause", summary: "Pause recoveries", need: need("patch"),
		description: "No node is declared lost, and no pod recovered, until they are resumed. Recoveries whose node is fenced already go on."}, s.putPause)
	register(api, operation{id: "delete-pause", method: http.MethodDelete, path: "/pause", tag: "Pause", summary: "Resume recoveries", need: need("patch")}, s.deletePause)
}
