package measure

import "github.com/assay-attest/assay/plan"

func (r *run) check(t plan.Test, s plan.Scope, files int64) section { return whole(t, CodeKind.Code) }
