package httpapi

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/cache"
	"k8s.io/client-go/kubernetes"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

const (
	// remembered is how long an answer about a caller is believed: a permission that was
	// taken away still works for so long.
	remembered = 5 * time.Second
	// mostRemembered bounds the memory that strangers can take up.
	mostRemembered = 4096
	// reviewWithin is how long the API server may take to say who a caller is and what it
	// may do.
	reviewWithin = 10 * time.Second
	// longestToken is far above any token that Kubernetes issues.
	longestToken = 16 << 10
)

// permission is what a caller must be allowed to do for an operation. The namespace
// and the name of the object are the request's.
type permission struct {
	verb, group, resource string
	// inNamespace is the fixed namespace, and named the fixed name, of the object.
	inNamespace, named string
	// anyName says that the verb is asked of the resource and not of one object.
	anyName bool
	// byQuery says that the operation keeps to the namespace in its parameter of that
	// name. Of any other such a parameter must not narrow what is asked for.
	byQuery bool
	// also are further permissions that are needed, with the same namespace and name.
	also []permission
}

func lifeboat(verb, resource string) permission {
	return permission{verb: verb, group: v1alpha1.GroupVersion.Group, resource: resource, anyName: verb == "create" || verb == "list"}
}

// permissionKey is the key of an operation's permission in its metadata.
const permissionKey = "permission"

// caller is who asks.
type caller struct {
	authenticationv1.UserInfo
	// token is the token's hash.
	token string
}

type callerKey struct{}

// callerOf is who asks, of a request that was let in.
func callerOf(ctx context.Context) caller {
	c, _ := ctx.Value(callerKey{}).(caller)
	return c
}

// gate lets those in whom the cluster knows and allows what they ask for: the same
// who may do it with kubectl.
type gate struct {
	clientset kubernetes.Interface
	log       *slog.Logger
	known     *cache.LRUExpireCache // token's hash -> *caller, nil for a stranger
	allowed   *cache.LRUExpireCache // question -> authorizationv1.SubjectAccessReviewStatus
}

func newGate(clientset kubernetes.Interface, log *slog.Logger) *gate {
	return &gate{clientset: clientset, log: log, known: cache.NewLRUExpireCache(mostRemembered), allowed: cache.NewLRUExpireCache(mostRemembered)}
}

// check is the middleware that every operation has.
func (g *gate) check(ctx huma.Context, next func(huma.Context), refuse func(huma.Context, *Problem)) {
	review, cancel := context.WithTimeout(ctx.Context(), reviewWithin)
	defer cancel()
	who, refused := g.authenticate(review, ctx.Header("Authorization"))
	if refused != nil {
		refuse(ctx, refused)
		return
	}
	need, ok := ctx.Operation().Metadata[permissionKey].(permission)
	if !ok {
		refuse(ctx, problem(http.StatusInternalServerError, reasonInternal, "report this", "operation %s names no permission", ctx.Operation().OperationID))
		return
	}
	namespace := ctx.Param("namespace")
	if need.byQuery {
		namespace = ctx.Query("namespace") // empty is the whole cluster
	}
	for _, need := range append([]permission{need}, need.also...) {
		if refused := g.authorize(review, who, need, namespace, ctx.Param("name")); refused != nil {
			refuse(ctx, refused)
			return
		}
	}
	next(huma.WithValue(ctx, callerKey{}, *who))
}

func (g *gate) authenticate(ctx context.Context, header string) (*caller, *Problem) {
	const hint = `send "Authorization: Bearer TOKEN", as "kubectl create token SERVICEACCOUNT" prints one`
	scheme, token, _ := strings.Cut(header, " ")
	if token = strings.TrimSpace(token); !strings.EqualFold(scheme, "Bearer") || token == "" || len(token) > longestToken {
		return nil, problem(http.StatusUnauthorized, reasonUnauthenticated, hint, "the request has no bearer token")
	}
	sum := sha256.Sum256([]byte(token))
	key := hex.EncodeToString(sum[:])
	if known, ok := g.known.Get(key); ok {
		if who := known.(*caller); who != nil {
			return who, nil
		}
		return nil, problem(http.StatusUnauthorized, reasonUnauthenticated, hint, "the cluster does not know the bearer token")
	}
	review, err := g.clientset.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: token},
	}, metav1.CreateOptions{})
	if err != nil {
		g.log.Warn("a caller cannot be authenticated", "error", err)
		return nil, unavailable("ask the cluster whose token this is", err)
	}
	if !review.Status.Authenticated {
		g.known.Add(key, (*caller)(nil), remembered)
		return nil, problem(http.StatusUnauthorized, reasonUnauthenticated, hint, "the cluster does not know the bearer token, or it has expired")
	}
	who := &caller{UserInfo: review.Status.User, token: key}
	g.known.Add(key, who, remembered)
	return who, nil
}

func (g *gate) authorize(ctx context.Context, who *caller, need permission, namespace, name string) *Problem {
	if need.inNamespace != "" {
		namespace, name = need.inNamespace, need.named
	}
	if need.anyName {
		name = ""
	}
	question := strings.Join([]string{who.token, need.verb, need.group, need.resource, namespace, name}, "\x00")
	answer, ok := g.allowed.Get(question)
	if !ok {
		extra := make(map[string]authorizationv1.ExtraValue, len(who.Extra))
		for key, values := range who.Extra {
			extra[key] = authorizationv1.ExtraValue(values)
		}
		review, err := g.clientset.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
			Spec: authorizationv1.SubjectAccessReviewSpec{
				User: who.Username, UID: who.UID, Groups: who.Groups, Extra: extra,
				ResourceAttributes: &authorizationv1.ResourceAttributes{
					Verb: need.verb, Group: need.group, Resource: need.resource, Namespace: namespace, Name: name,
				},
			},
		}, metav1.CreateOptions{})
		if err != nil {
			g.log.Warn("a caller cannot be authorized", "user", who.Username, "error", err)
			return unavailable("ask the cluster what the caller may do", err)
		}
		answer = review.Status.Allowed
		g.allowed.Add(question, answer, remembered)
	}
	if answer.(bool) {
		return nil
	}
	return problem(http.StatusForbidden, reasonForbidden,
		fmt.Sprintf("ask an administrator for a role with the verb %s on %s", need.verb, resourceName(need)),
		"%s may not %s %s%s", who.Username, need.verb, resourceName(need), where(namespace, name))
}

func resourceName(p permission) string {
	if p.group == "" {
		return p.resource
	}
	return p.resource + "." + p.group
}

func where(namespace, name string) (text string) {
	if name != "" {
		text = " " + name
	}
	if namespace != "" {
		return text + " in namespace " + namespace
	}
	return text + " in the whole cluster"
}
