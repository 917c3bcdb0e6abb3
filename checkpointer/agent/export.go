package agent

import (
	"context"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

func (a *Agent) importState(context.Context, *v1alpha1.Migration) bool { return false }
func (a *Agent) resumeOldPod(context.Context, *v1alpha1.Migration)     {}
