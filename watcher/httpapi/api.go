// Package httpapi is Lifeboat's REST API: what kubectl and the custom resources offer,
// for programs that speak HTTP and JSON. It keeps nothing of its own: all that it says
// comes from the cluster's API, and all that it does are changes there. Who may do what
// is what the cluster allows with the resources behind it.
package httpapi

import (
	"context"
	"log/slog"
	"net/http"
	"reflect"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/watcher/metrics"
)

const (
	// basePath has the API's version: what is under it stays compatible.
	basePath = "/api/v1"
	// fieldOwner is who changed an object, in its managed fields.
	fieldOwner = client.FieldOwner("lifeboat-api")

	bodyLimit = 64 << 10
	// answerWithin bounds an operation that does not wait for anything in the cluster.
	answerWithin = 15 * time.Second
)

// Service is what the API is made of. All fields are required.
type Service struct {
	// Cache has the watcher's view of the cluster, for lists.
	Cache client.Reader
	// Client asks and changes the API server itself. It should not share its rate limit
	// with what recovers pods.
	Client client.WithWatch
	// Clientset asks the API server who a caller is, and what it may do.
	Clientset kubernetes.Interface
	// Namespace is Lifeboat's own.
	Namespace string
	Log       *slog.Logger
	// Requests counts what is asked and answered; nil counts nothing.
	Requests *metrics.Requests
}

type service struct {
	Service
	// ending is closed when the server stops: what waits or streams ends then.
	ending  context.Context
	streams chan struct{}
}

// operation is what the specification says of one operation, and what it takes.
type operation struct {
	id, method, path, tag, summary, description string

	need permission
	// status is that of success, where it is not 200.
	status int
	// errors are the statuses of the problems that it has besides those that all have.
	errors []int
	// within bounds the operation, 0 is answerWithin; below 0 it is not bounded.
	within time.Duration
	// responses are further ones.
	responses map[string]*huma.Response
}

// register adds an operation to the API.
func register[I, O any](api huma.API, op operation, handle func(context.Context, *I) (*O, error)) {
	within := op.within
	if within == 0 {
		within = answerWithin
	}
	errors := append([]int{http.StatusUnauthorized, http.StatusForbidden, http.StatusUnprocessableEntity, http.StatusInternalServerError, http.StatusServiceUnavailable}, op.errors...)
	if _, body := reflect.TypeFor[I]().FieldByName("Body"); body {
		errors = append(errors, http.StatusBadRequest, http.StatusRequestTimeout, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType)
	}
	huma.Register(api, huma.Operation{
		OperationID: op.id, Method: op.method, Path: basePath + op.path, Tags: []string{op.tag}, Summary: op.summary,
		Description: description(op), DefaultStatus: op.status, Errors: errors, Responses: op.responses,
		MaxBodyBytes: bodyLimit, BodyReadTimeout: longestRequest, // a shorter one would end the operation, too
		Security: []map[string][]string{{"token": {}}},
		Metadata: map[string]any{permissionKey: op.need},
	}, func(ctx context.Context, in *I) (*O, error) {
		if within > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, within)
			defer cancel()
		}
		return handle(ctx, in)
	})
}

func description(op operation) string {
	need := "Needs the verb " + op.need.verb + " on " + resourceName(op.need)
	for _, also := range op.need.also {
		need += ", and " + also.verb + " on " + resourceName(also)
	}
	switch {
	case op.need.inNamespace != "":
		need += " " + op.need.named + " in namespace " + op.need.inNamespace
	case op.need.byQuery:
		need += ", in the namespace that is asked for or else in the whole cluster"
	}
	if op.description == "" {
		return need + "."
	}
	return op.description + "\n\n" + need + "."
}

// newAPI describes the API, and serves it on mux.
func (s *service) newAPI(mux *http.ServeMux) huma.API {
	config := huma.DefaultConfig("Lifeboat", "1.0.0")
	config.Info.Description = "Protected pods, their checkpoints, and their moves. Errors are problem details (RFC 9457)."
	config.Info.License = &huma.License{Name: "Apache 2.0", Identifier: "Apache-2.0"}
	config.Servers = []*huma.Server{{URL: "https://lifeboat-watcher.lifeboat-system.svc:8443", Description: "The Service lifeboat-watcher, from within the cluster"}}
	config.Tags = []*huma.Tag{
		{Name: "Pods", Description: "Protected pods and their checkpoints"}, {Name: "Migrations", Description: "Moves of pods, and recoveries"},
		{Name: "Nodes", Description: "What nodes can restore"}, {Name: "Pause", Description: "Holding recoveries back"},
	}
	config.Components.SecuritySchemes = map[string]*huma.SecurityScheme{"token": {
		Type: "http", Scheme: "bearer", Description: "A token that the cluster's TokenReview accepts, as kubectl create token prints one",
	}}
	// What is read may have more in a later version; what is sent may not.
	config.AllowAdditionalPropertiesByDefault = true
	config.OpenAPIPath, config.DocsPath, config.SchemasPath, config.CreateHooks = "", "", "", nil
	config.Transformers = []huma.Transformer{func(ctx huma.Context, _ string, body any) (any, error) {
		if p, ok := body.(*Problem); ok {
			located := *p
			located.Instance = ctx.Operation().Path
			if u := ctx.URL(); u.Path != "" {
				located.Instance = u.EscapedPath()
			}
			return &located, nil
		}
		return body, nil
	}}
	api := humago.New(mux, config)
	gate := newGate(s.Clientset, s.Log)
	api.UseMiddleware(func(ctx huma.Context, next func(huma.Context)) {
		gate.check(ctx, next, func(ctx huma.Context, p *Problem) { refuse(api, ctx, p) })
	})
	s.registerPods(api)
	s.registerMigrations(api)
	s.registerClones(api)
	s.registerEvents(api)
	s.registerRebalance(api)
	s.registerNodes(api)
	s.registerPause(api)
	return api
}

// refuse answers with a problem before an operation is begun.
func refuse(api huma.API, ctx huma.Context, p *Problem) {
	for key, values := range p.GetHeaders() {
		ctx.SetHeader(key, values[0])
	}
	ctx.SetHeader("Content-Type", p.ContentType(""))
	body, err := api.Transform(ctx, "", p)
	if err != nil {
		body = p
	}
	ctx.SetStatus(p.Status)
	_ = api.Marshal(ctx.BodyWriter(), "application/json", body)
}
