export GIT_CONFIG_NOSYSTEM=1
git config --global user.name Somebody
git config --global user.email somebody@example.org
git config --global init.defaultBranch main
git config --global gc.auto 0
git config --global pack.threads 1
git config --global core.fsync "$FSYNC"

n=0
tick() {
	n=$((n + 1))
	GIT_AUTHOR_DATE="$((1700000000 + n)) +0000"
	GIT_COMMITTER_DATE=$GIT_AUTHOR_DATE
	export GIT_AUTHOR_DATE GIT_COMMITTER_DATE
}
commit() {
	tick
	git commit -q --no-verify -m "$1"
}

git init -q repo
cd repo
i=0
while [ "$i" -lt "$COMMITS" ]; do
	i=$((i + 1))
	dir=d$((i % 7))
	mkdir -p "$dir/below"
	seq "$i" $((i + 300)) >"$dir/f$((i % 31))"
	echo "$i" >"$dir/below/$i"
	chmod +x "$dir/below/$i"
	ln -sfn "below/$i" "$dir/latest"
	git add -A
	commit "commit $i"
	if [ $((i % 5)) -eq 0 ]; then
		git mv "$dir/below/$i" "renamed-$i"
		git rm -q "$dir/latest"
		commit "rename and remove in $i"
	fi
done

# As many again, by the thousand, without a work tree.
awk -v commits=$((COMMITS * 20)) 'BEGIN {
	for (i = 1; i <= commits; i++) {
		text = "content " i "\n"
		printf "commit refs/heads/imported\ncommitter Somebody <somebody@example.org> %d +0000\n", 1600000000 + i
		printf "data 8\nimported\nM 100644 inline dir%d/file%d\ndata %d\n%s\n", i % 50, i, length(text), text
	}
}' | git fast-import --quiet --date-format=raw

git checkout -q -b side HEAD~5
echo side >side
git add side
commit side
git checkout -q main
tick
git merge -q --no-ff -m merge side
tick
git tag -a -m tagged v1
git checkout -q imported
git checkout -q main

echo changed >>renamed-5
tick
git stash -q
tick
git stash pop -q
git checkout -q -- renamed-5

echo "-- status"
git status --porcelain
# By what stat says alone: what was written to the index still holds.
git diff-files --quiet
git fsck --full --strict --no-progress --no-dangling 2>&1

git gc -q --prune=now
git fsck --full --strict --no-progress 2>&1
git count-objects -v | grep -v size

git clone -q . ../clone
git clone -q --no-local --bare . ../bare.git
cd ../clone
echo clone >clone
git add clone
commit clone
git push -q ../bare.git HEAD:refs/heads/pushed
git worktree add -q ../tree v1
git -C ../tree status --porcelain
cd ../repo
git fetch -q ../bare.git pushed:pushed
git repack -q -a -d -f
git update-index --refresh
git log --all --format='%H %P %s'
git status --porcelain
git -C ../clone fsck --full --strict --no-progress 2>&1
git -C ../bare.git fsck --full --strict --no-progress 2>&1
