"""Every format of pretrained weights, and files that do not fit."""
import pytest
import torch

from scalenet_mm import CheckpointError, ScaleNetSwin, load_pretrained

IDENTITY = dict(growth=dict(start='identity'), adjustment='paper')


def save(checkpoint, tmp_path, name='weights.pth'):
    path = str(tmp_path / name)
    torch.save(checkpoint, path)
    return path


def assert_same(model, source, x):
    expected = source(x)[0]
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(model.eval()(x)[0], expected, rtol=0, atol=0)


@pytest.mark.parametrize('name', [
    'official', 'official detector', 'backbone', 'backbone in state_dict', 'classifier',
    'old mmpretrain', 'detector', 'distributed', 'official distributed'
])
@pytest.mark.parametrize('grown', [False, True], ids=['ungrown', 'grown'])
def test_swin_formats(name, grown, swin, formats, image, tmp_path):
    source = swin()
    path = save(formats['swin'][name](source.state_dict()), tmp_path)
    model = ScaleNetSwin(source_arch(), img_size=56, **(IDENTITY if grown else dict(
        growth=None, adjustment=None)))
    report = load_pretrained(model, path)
    if 'detector' not in name or name == 'detector':
        assert_same(model, source, image())
    official = 'official' in name
    assert report.format == ('official' if official else 'OpenMMLab')
    base = {k for k in source.state_dict() if 'position_index' not in k}
    assert {k for k in report.matched if 'position_index' not in k} >= base - {
        k for k in base if k.startswith('norm1') and name == 'official detector'}


def source_arch():
    return dict(embed_dims=16, depths=(2, 2), num_heads=(2, 4))


@pytest.mark.parametrize('name', [
    'official', 'timm', 'backbone', 'classifier', 'mmseg', 'segmentor', 'distributed'
])
@pytest.mark.parametrize('grown', [False, True], ids=['ungrown', 'grown'])
def test_vit_formats(name, grown, vit, formats, image, tmp_path):
    source = vit()
    path = save(formats['vit'][name](source.state_dict()), tmp_path)
    model = vit(seed=1, **(dict(growth=None) if not grown else dict()))
    if grown:
        model = type(model)(dict(embed_dims=24, num_layers=3, num_heads=2,
                                 feedforward_channels=48), img_size=48, **IDENTITY)
    report = load_pretrained(model, path)
    assert_same(model, source, image(48))
    assert report.format == {'official': 'official', 'timm': 'official', 'distributed':
                             'official', 'mmseg': 'mmseg', 'segmentor': 'mmseg'}.get(
                                 name, 'OpenMMLab')


def test_own_grown_file(swin, vit, image, tmp_path):
    for make, size in ((swin, 56), (vit, 48)):
        source = make(**IDENTITY)  # every adapter, gain and norm is drawn
        path = save({'state_dict': {f'backbone.{k}': v for k, v in source.state_dict().items()}},
                    tmp_path)
        model = make(seed=1, **IDENTITY)
        report = load_pretrained(model, path)
        assert not report.initialised and not report.ignored
        assert_same(model, source, image(size))


def test_growing_further_copies_from_the_last_instance(vit, tmp_path):
    source = vit(growth=dict(times=2), adjustment='paper')
    path = save(source.state_dict(), tmp_path)
    model = vit(seed=1, growth=dict(times=3), adjustment='paper')
    load_pretrained(model, path)
    for key in ('ln1.weight', 'ffn.layers.1.adapter_up'):
        assert torch.equal(model.get_parameter(f'layers.0_r2.{key}'),
                           source.get_parameter(f'layers.0_r1.{key}'))


@pytest.mark.parametrize('how', [load_pretrained, None], ids=['init_cfg', 'load_state_dict'])
def test_further_stages_start_as_an_identity(how, swin, image, tmp_path):
    """A file of which one stage is grown, in a model of which all are."""
    source = swin(growth=dict(stages=(1, ), start='identity'), adjustment='paper')
    model = ScaleNetSwin(arch=dict(embed_dims=16, depths=(2, 2), num_heads=(2, 4)), img_size=56,
                         growth=dict(stages=(0, 1), start='identity'))
    if how is None:
        model.load_state_dict(source.state_dict())
    else:
        how(model, save(source.state_dict(), tmp_path))
    assert_same(model, source, image())


def test_a_repeat_takes_the_norms_of_its_source(vit, tmp_path):
    source = vit()
    model = vit(seed=1, growth=dict(), adjustment=None)
    report = load_pretrained(model, save(source.state_dict(), tmp_path))
    for i in range(3):
        assert torch.equal(model.get_parameter(f'layers.{i}_r1.ln2.bias'),
                           source.get_parameter(f'layers.{i}.ln2.bias'))
    assert list(report.initialised) == ["norms of repeats (copies of their source's last instance)"]
    assert '12 norms of repeats' in str(report)


def test_prefix(swin, image, tmp_path):
    source = swin()
    path = save({f'encoder.{k}': v for k, v in source.state_dict().items()}, tmp_path)
    for prefix in ('encoder', 'encoder.'):
        model = swin(seed=1)
        load_pretrained(model, path, prefix=prefix)
        assert_same(model, source, image())
    with pytest.raises(CheckpointError, match="no tensor whose name begins with 'student'.*"
                       'its names begin with encoder.patch_embed'):
        load_pretrained(swin(), path, prefix='student')
    with pytest.raises(CheckpointError, match='weights.pth does not fit ScaleNetSwin: the names '
                       'are of no known backbone.*begin with encoder'):
        load_pretrained(swin(), path)


def test_sizes_are_adapted(swin, vit, image, tmp_path):
    from mmpretrain.models.utils import resize_pos_embed
    source = vit(img_size=48)
    model = vit(seed=1, img_size=64)
    load_pretrained(model, save(source.state_dict(), tmp_path))
    expected = resize_pos_embed(source.pos_embed, (3, 3), (4, 4), 'bicubic', 1)
    torch.testing.assert_close(model.pos_embed, expected)

    source = swin(window_size=7, use_abs_pos_embed=True)
    model = swin(seed=1, window_size=4, use_abs_pos_embed=True, img_size=64)
    load_pretrained(model, save(source.state_dict(), tmp_path))
    assert model.absolute_pos_embed.shape == (1, 256, 16)
    key = 'stages.0.blocks.0.attn.w_msa.relative_position_bias_table'
    table = source.get_parameter(key)
    # as mmdet does it
    grid = torch.nn.functional.interpolate(
        table.permute(1, 0).reshape(1, 2, 13, 13), size=(7, 7), mode='bicubic')
    torch.testing.assert_close(model.get_parameter(key), grid.view(2, 49).permute(1, 0))
    index = model.stages[0].blocks[0].attn.w_msa.relative_position_index
    assert index.shape == (16, 16) and index.max() == 48


def test_load_state_dict_knows_the_formats_too(swin, vit, formats, image):
    source = swin()
    model = swin(seed=1)
    official = formats['swin']['official'](source.state_dict())['model']
    model.load_state_dict({k: v for k, v in official.items() if 'head' not in k}, strict=True)
    assert_same(model, source, image())
    old = {k.replace('norm1.', 'norm.') if k.startswith('norm1.') else k: v
           for k, v in source.state_dict().items()}
    model = swin(seed=1)
    model.load_state_dict(old, strict=True)
    assert_same(model, source, image())
    source = vit()
    wrapped = torch.nn.ModuleDict(dict(backbone=vit(seed=1)))
    state = formats['vit']['segmentor'](source.state_dict())['state_dict']
    wrapped.load_state_dict({k: v for k, v in state.items() if 'backbone' in k}, strict=True)
    assert_same(wrapped['backbone'], source, image(48))


def test_a_model_without_data_takes_the_index_of_the_file(swin, image):
    source = swin()
    with torch.device('meta'):
        model = ScaleNetSwin(source_arch(), img_size=56, growth=None, adjustment=None)
    model.load_state_dict(source.state_dict(), strict=True, assign=True)
    assert_same(model, source, image())


# --- files that do not fit -----------------------------------------------------------------------


def check_refused(model, path, message):
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=message) as error:
        load_pretrained(model, path)
    assert path in str(error.value)
    after = model.state_dict()
    assert all(torch.equal(v, after[k]) for k, v in before.items())  # nothing was loaded


def test_another_family(swin, vit, formats, tmp_path):
    for name in ('official', 'backbone'):
        path = save(formats['swin'][name](swin().state_dict()), tmp_path)
        check_refused(vit(), path, 'does not fit ScaleNetViT: the names are of a swin, not of a '
                                   'vit')
        path = save(formats['vit'][name](vit().state_dict()), tmp_path)
        check_refused(swin(), path, 'the names are of a vit, not of a swin')


def test_another_width(swin, vit, tmp_path):
    path = save(swin(arch=dict(source_arch(), embed_dims=32)).state_dict(), tmp_path)
    check_refused(swin(), path, r'another architecture or growth.*patch_embed.projection.weight '
                                r'has shape \(32, 3, 4, 4\), the model wants \(16, 3, 4, 4\).*'
                                r'Check arch \(or embed_dims, depths\), growth')
    wide = vit(arch=dict(embed_dims=48, num_layers=3, num_heads=2, feedforward_channels=48))
    check_refused(vit(), save(wide.state_dict(), tmp_path), 'another architecture|do not fit')


def test_another_depth(swin, vit, tmp_path):
    deep = swin(arch=dict(source_arch(), depths=(2, 4)))
    shallow = swin()
    check_refused(shallow, save(deep.state_dict(), tmp_path),
                  r'stages.1.blocks.2.\S+ has no place in the model')
    check_refused(deep, save(shallow.state_dict(), tmp_path),
                  r'stages.1.blocks.2.\S+ is missing.* more\. Check arch')


def test_a_grown_file_in_a_less_grown_model(vit, tmp_path):
    path = save(vit(**IDENTITY).state_dict(), tmp_path)
    check_refused(vit(), path, 'has no place in the model')
    check_refused(vit(growth=dict(blocks=(0, )), adjustment='paper'), path,
                  r'layers.1_r1\S+ has no place|gain has no place')
    check_refused(vit(growth=dict(), adjustment=dict(rank=8)),
                  save(vit(growth=dict(), adjustment='paper').state_dict(), tmp_path),
                  r'adapter_down has shape \(16, 24\), the model wants \(8, 24\)')


@pytest.mark.parametrize('lost', ['layers.1_r1.ln1.weight', 'layers.1_r1.ffn.layers.1.adapter_up',
                                  'layers.0.ffn.layers.0.0.adapter_down', 'layers.2.attn.proj.gain',
                                  'layers.2.attn.qkv.weight', 'pos_embed', 'cls_token'])
def test_a_partial_grown_file(lost, vit, tmp_path):
    state = vit(**IDENTITY).state_dict()
    del state[lost]
    check_refused(vit(seed=1, **IDENTITY), save(state, tmp_path), f'{lost} is missing')


def test_a_distilled_deit(vit, formats, tmp_path):
    state = formats['vit']['timm'](vit().state_dict())
    state['dist_token'] = torch.zeros(1, 1, 24)
    check_refused(vit(), save({'model': state}, tmp_path), 'distilled DeiT.*use the plain DeiT')


def test_files_without_weights(vit, tmp_path):
    check_refused(vit(), save({'epoch': 3, 'note': 'x'}, tmp_path),
                  'holds no state dict.*but epoch, note')
    check_refused(vit(), save([torch.ones(2)], tmp_path), 'holds no state dict.*but list')
    check_refused(vit(), save({1: torch.ones(2)}, tmp_path), 'the names are of no known backbone')
    resnet = {'conv1.weight': torch.ones(2), 'layer1.0.bn1.weight': torch.ones(2)}
    check_refused(vit(), save(resnet, tmp_path), 'no known backbone, not of a vit.*conv1.weight')


def test_position_embeddings_that_cannot_be_resized(vit, tmp_path):
    state = vit().state_dict()
    state['pos_embed'] = torch.ones(1, 12, 24)
    check_refused(vit(), save(state, tmp_path), r'position embeddings of shape \(1, 12, 24\)')


def test_windows_of_other_heads(swin, tmp_path):
    state = swin().state_dict()
    state['stages.0.blocks.0.attn.w_msa.relative_position_bias_table'] = torch.ones(169, 3)
    check_refused(swin(), save(state, tmp_path), r'table of shape \(169, 3\) does not fit')


# --- the line ------------------------------------------------------------------------------------


def test_one_line_says_what_happened(vit, formats, tmp_path, monkeypatch):
    path = save(formats['vit']['segmentor'](vit().state_dict()), tmp_path)
    model = vit(**IDENTITY)
    lines = []
    monkeypatch.setattr('scalenet_mm.checkpoints.pretrained.print_log',
                        lambda message, **kwargs: lines.append(message))
    report = load_pretrained(model, path)
    line, = lines
    assert line == str(report)
    assert '\n' not in line
    count = len(vit().state_dict())
    assert line.startswith(f'Loaded {path} (mmseg): {count} tensors matched; initialised: ')
    assert "12 norms of repeats (copies of their source's last instance)" in line
    # 6 blocks: two adapters of two parameters each, two gains
    assert f'{6 * 6} adapters, LoRA or gains' in line
    assert 'ignored: none' in line


def test_nothing_is_left_in_the_file(vit, image, tmp_path):
    """Its tensors are mapped while they are copied; afterwards it may be written anew."""
    source = vit()
    path = save(source.state_dict(), tmp_path)
    model = vit(seed=1, growth=None)
    load_pretrained(model, path)
    with open(path, 'r+b') as file:
        file.write(bytes((tmp_path / 'weights.pth').stat().st_size))
    assert_same(model, source, image(48))
