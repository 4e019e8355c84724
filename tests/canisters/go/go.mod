module canister

go 1.26
