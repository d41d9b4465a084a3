# Everything that the checkout runs, on Ray's own image: for KubeRay, Docker and, as a SIF file, Apptainer.
#
#   docker build -t registry.example.org/reelstore:0.1.0 .
#   apptainer build reelstore.sif docker-daemon://registry.example.org/reelstore:0.1.0
#
# The version of Ray is that of constraints.txt. Weights are no part of the image: mount them.
FROM rayproject/ray:2.60.0-py311-gpu

# The packages are a layer of their own, made again only when the list of them changes. The list is read from
# pyproject.toml. Python and its packages lie in /home/ray, which Apptainer reads as another user.
WORKDIR /opt/reelstore
RUN --mount=type=bind,source=pyproject.toml,target=/tmp/pyproject.toml \
    --mount=type=bind,source=constraints.txt,target=/tmp/constraints.txt \
    python -c "import tomllib; project = tomllib.load(open('/tmp/pyproject.toml', 'rb'))['project']; \
extras = project['optional-dependencies']; \
print(*project['dependencies'], *(need for extra in ('extract', 'parse', 'train', 'ray') for need in extras[extra]), \
sep='\n')" > /tmp/requirements.txt \
    && pip install --no-cache-dir --constraint /tmp/constraints.txt --requirement /tmp/requirements.txt \
    && rm /tmp/requirements.txt \
    && chmod a+rx /home/ray

COPY --chown=root:root . .

# Workers of a job that is submitted without --working-dir, as KubeRay does it, find the code here.
ENV PYTHONPATH=/opt/reelstore \
    PYTHONDONTWRITEBYTECODE=1

# The user of Ray's image, by number for clusters that refuse root. Apptainer runs as whoever calls it.
USER 1000:100
